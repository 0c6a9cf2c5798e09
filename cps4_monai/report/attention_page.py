"""Attention maps of a stage 1 on any scans: a picture of each, and a page with all of them in the viewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from cps4_monai.anatomy import Anatomy
from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.cache import SliceCache
from cps4_monai.data.entries import Entry
from cps4_monai.report.attention_pictures import Attention, attention_pictures
from cps4_monai.report.page import Block, Figure, Gallery, Section, write_page
from cps4_monai.report.viewer import viewer_blocks
from cps4_monai.scan_names import stem_of

PAGE = "attention.html"


def write_attention(
    checkpoint: str | Path,
    scans: Sequence[Path],
    output: str | Path,
    cache: SliceCache,
    anatomy: Anatomy,
    names: Sequence[str],
    device: torch.device | str = "cpu",
) -> tuple[Path, dict[Path, str]]:
    """Writes ``NAME_attention.png`` of each scan's middle slice (paper, figure 5), and a page with the whole scans.

    Args:
        checkpoint: result of stage 1.
        scans: NIfTI files; those of equal names get a number in front.
        output: folder of pictures and page.
        cache: gives the scans' slices, on the grid that stage 1 was trained on.
        anatomy: classes and prompts of stage 1.
        names: short names of the structures whose prompts are shown in the pictures; the viewer has all.
        device: where the network runs.

    Returns:
        The page, and the scans that could not be read with the reason.

    Raises:
        ValueError: a checkpoint without class prompts, an unknown name, or no scan that can be read.
    """
    entries, failures = list[Entry](), dict[Path, str]()
    for name, path in named(scans).items():
        try:
            cache.image(path)  # which keeps the slices
        except ValueError as error:
            failures[path] = str(error)
        else:
            entries.append(Entry(path, None, name))
    if not entries:
        raise ValueError("; ".join(failures.values()))
    shown = attention_pictures(checkpoint, entries, cache, anatomy, names, device, limit=len(entries))
    if not shown.pictures:
        raise ValueError(
            f"{checkpoint}: holds an assistant of templates, which has no attention maps; expected a stage 1 with "
            "class prompts. Fix: name that of a run of `cps4` or `cps4_plus`"
        )
    for name, picture in shown.pictures.items():
        write_atomically(Path(output) / f"{name}_attention.png", picture)
    page = write_page(
        Path(output) / PAGE, "Attention to class prompts", str(Path(checkpoint).name), _sections(shown, anatomy)
    )
    return page, failures


def named(scans: Sequence[Path]) -> Mapping[str, Path]:
    """Name in files and page -> scan."""
    stems = [stem_of(path) for path in scans]
    return {
        stem if stems.count(stem) == 1 else f"{number:03d}_{stem}": path
        for number, (stem, path) in enumerate(zip(stems, scans, strict=True), start=1)
    }


def _sections(shown: Attention, anatomy: Anatomy) -> list[Section]:
    told = "A of eq. 1 from 0 to 1: where the network finds what a prompt names. Nobody's label is drawn."
    blocks: list[Block] = [Gallery([Figure(picture, name) for name, picture in shown.pictures.items()], wide=True)]
    first = f" The first {len(shown.views)} of {len(shown.pictures)} scans." * (len(shown.views) < len(shown.pictures))
    viewer = [*viewer_blocks(shown.views, anatomy, linked=False)]
    return [
        Section("Middle slices", blocks, told),
        Section("Whole scans", viewer, f"A prompt is chosen from the list.{first}"),
    ]
