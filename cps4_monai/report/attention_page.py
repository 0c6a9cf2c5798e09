"""Attention maps of a stage 1 on any scans: a picture of each, and a page with all of them in the viewer."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from cps4_monai.anatomy import Anatomy
from cps4_monai.data.cache import SliceCache
from cps4_monai.data.entries import Entry
from cps4_monai.data.label_ownership import ForeignFileError
from cps4_monai.data.owned_picture import check_picture, write_picture
from cps4_monai.report.attention_pictures import Attention, attention_pictures
from cps4_monai.report.page import Block, Figure, Gallery, Section, write_page
from cps4_monai.report.viewer import viewer_blocks
from cps4_monai.scan_names import stem_of

PAGE, TITLE = "attention.html", "Attention to class prompts"


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
        scans: NIfTI files; those of equal names get their folders in front.
        output: folder of pictures and page.
        cache: gives the scans' slices, on the grid that stage 1 was trained on.
        anatomy: classes and prompts of stage 1.
        names: short names of the structures whose prompts are shown in the pictures; the viewer has all.
        device: where the network runs.

    Returns:
        The page, and the scans that could not be read with the reason.

    Raises:
        ValueError: a checkpoint without class prompts, an unknown name, scans whose files would have one name, or no
            scan that can be read.
        ForeignFileError: a picture or page that is not ours is there; nothing is computed then.
    """
    entries, failures, output = list[Entry](), dict[Path, str](), Path(output)
    names_of_scans = named(scans)
    _check_page(output / PAGE)
    for name in names_of_scans:
        check_picture(_picture_of(output, name))
    for name, path in names_of_scans.items():
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
        write_picture(_picture_of(output, name), picture)
    page = write_page(output / PAGE, TITLE, str(Path(checkpoint).name), _sections(shown, anatomy))
    return page, failures


def _check_page(path: Path) -> None:
    if path.exists() and f"<title>{TITLE}</title>".encode() not in path.read_bytes():
        raise ForeignFileError.at(path)


def _picture_of(output: Path, name: str) -> Path:
    return output / f"{name}_attention.png"


def _folder_of(path: Path) -> Path:
    return Path(os.path.abspath(path)).parent  # without "..", which would lead out of the output folder


def named(scans: Sequence[Path]) -> Mapping[str, Path]:
    """Name in files and page -> scan: its stem; where several have it, its folders from where theirs part, too.

    Raises:
        ValueError: two scans of one folder whose files would have one name.
    """
    shared = Counter(stem_of(path).casefold() for path in scans)
    several = [_folder_of(path) for path in scans if shared[stem_of(path).casefold()] > 1]
    above = Path(os.path.commonpath(several)) if several else Path()
    names: dict[str, Path] = {}
    for path in dict.fromkeys(scans):
        stem = stem_of(path)
        if shared[stem.casefold()] > 1:
            stem = (_folder_of(path).relative_to(above) / stem).as_posix()
        if other := next((scan for name, scan in names.items() if name.casefold() == stem.casefold()), None):
            raise ValueError(
                f"{path}: its picture would have the name of that of {other}; expected names that differ. Fix: rename "
                "one of them, or give them one at a time, each with its own output folder"
            )
        names[stem] = path
    return names


def _sections(shown: Attention, anatomy: Anatomy) -> list[Section]:
    told = "A of eq. 1 from 0 to 1: where the network finds what a prompt names. Nobody's label is drawn."
    blocks: list[Block] = [Gallery([Figure(picture, name) for name, picture in shown.pictures.items()], wide=True)]
    first = f" The first {len(shown.views)} of {len(shown.pictures)} scans." * (len(shown.views) < len(shown.pictures))
    viewer = [*viewer_blocks(shown.views, anatomy, linked=False)]
    return [
        Section("Middle slices", blocks, told),
        Section("Whole scans", viewer, f"A prompt is chosen from the list.{first}"),
    ]
