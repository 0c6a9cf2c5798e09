"""From a study and its data to cells: each one a method, a labeled share and a seed, with the settings that follow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from cps4_monai.bench.study import ALL, Block, MethodSpec, Study, StudyError
from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.data.labeled_subsets import labeled_choice, read_json, rotated_subset
from cps4_monai.file_hash import by_content
from cps4_monai.fingerprint import PLACES_AND_PACE, STAGE1_RESULT, depends_on, fingerprint
from cps4_monai.known_settings import refuse_unknown_settings
from cps4_monai.workflow import DEFAULT_CONFIG, resolve_config

SET_BY_THE_STUDY = {"seed": "seeds", "labeled_share": "shares", "labeled_subjects": "rotate_labeled"}
STAGE1, STAGE2 = "training_stage1", "training_stage2"
DATA = "data of the study"


@dataclass(frozen=True)
class Data:
    """Where the scans are; the digest is of the datalist's content, so that moving the files changes nothing.

    Of a phantom it is also of what its scans were made with.
    """

    datalist: Path
    dataset_dir: Path
    content: Mapping[str, Any]
    digest: str

    @classmethod
    def read(cls, datalist: Path, dataset_dir: Path | None = None, made_with: Mapping[str, Any] | None = None) -> Data:
        """Reads the datalist; its own folder holds the scans unless another is named.

        Args:
            datalist: JSON.
            dataset_dir: folder of the scans.
            made_with: what decides the pixels of a phantom and does not stand in its datalist.

        Raises:
            DatalistError: not readable.
        """
        content = read_json(datalist)
        text = json.dumps([content, made_with] if made_with else content, sort_keys=True)
        folder = dataset_dir if dataset_dir is not None else datalist.parent
        return cls(datalist.resolve(), folder.resolve(), content, hashlib.sha256(text.encode()).hexdigest()[:16])


@dataclass(frozen=True)
class Cell:
    """One training with its evaluation.

    Attributes:
        method: name of the method, with the overlays' suffix where the block crosses with overlays.
        spec: the method as the study states it.
        share: labeled share, or "all".
        seed: of the training.
        overlays: names of the configs merged over ``train.json``, in order.
        settings: id -> value after them.
        config: all of that merged.
        base: ``train.json`` under all of that.
        stage1: settings that decide the result of stage 1; None where stage 2 needs none.
        stage2: settings that decide the result of the cell.
    """

    method: str
    spec: MethodSpec
    share: str
    seed: int
    overlays: tuple[str, ...]
    settings: Mapping[str, Any]
    config: Mapping[str, Any]
    base: Mapping[str, Any]
    stage1: Mapping[str, Any] | None
    stage2: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Readable and unique within a study: ``cps4-10pct-seed0``."""
        return f"{self.method}-{self.share}{'' if self.share == ALL else 'pct'}-seed{self.seed}"

    @property
    def title(self) -> str:
        """The method as the report shows it."""
        return self.spec.title + self.method[len(self.spec.name) :]


def make_cells(study: Study, data: Data) -> list[Cell]:
    """All cells of a study, first seed first: whatever is stopped early is a comparison of all methods.

    Args:
        study: from :func:`cps4_monai.bench.study.load_study`.
        data: what it runs on.

    Raises:
        StudyError: a setting that the study decides by other keys, or two cells of one name.
        FileNotFoundError: an overlay that does not exist.
        ValueError: a setting that no config knows, or a share that the datalist does not record.
    """
    cells: dict[str, Cell] = {}
    for block in study.matrix:
        for name in block.methods:
            for suffix, more in block.overlays.items():
                variant = _Variant(study, block, study.methods[name], suffix, more)
                for share in block.shares:
                    for seed in block.seeds:
                        cell = variant.cell(share, seed, data)
                        if cell.name in cells:
                            raise StudyError(
                                f"study {study.name}: 'matrix' holds the cell {cell.name} twice; take it out of one "
                                "block, or give the overlays of the block another name"
                            )
                        cells[cell.name] = cell
    return sorted(cells.values(), key=lambda cell: cell.seed)


class _Variant:
    """A method with a block's overlays: merged once, for all shares and seeds."""

    def __init__(self, study: Study, block: Block, spec: MethodSpec, suffix: str, more: tuple[str, ...]) -> None:
        self.study, self.spec, self.suffix = study, spec, suffix
        self.overlays = tuple(map(_anywhere, (spec.method, *study.overlays, *more, *spec.overlays)))
        self.settings = {**study.settings, **block.settings, **spec.settings}
        refused = {**SET_BY_THE_STUDY, **dict.fromkeys(PLACES_AND_PACE.keys() - {"num_workers", "log_every"}, "")}
        for setting in sorted(refused.keys() & self.settings.keys()):
            fix = f"state it under {refused[setting]!r}" if refused[setting] else "leave it out"
            raise StudyError(f"study {study.name}, method {spec.name}: {setting!r} is set by the study; {fix}")
        root = find_bundle_root()
        files = [str(resolve_config(name, root)) for name in (DEFAULT_CONFIG, *self.overlays)]
        refuse_unknown_settings(files, self.settings)
        self.files = files
        self.base = ConfigParser.load_config_files(files[:1])

    def cell(self, share: str, seed: int, data: Data) -> Cell:
        recorded = None if share == ALL else share
        subjects = None
        if recorded in self.study.rotate_labeled and recorded is not None:
            subjects = rotated_subset(data.content, data.datalist, recorded, seed)
        labeled_choice(data.content, data.datalist, recorded, subjects)
        settings = {**self.settings, "seed": seed, "labeled_share": recorded, "labeled_subjects": subjects}
        parser = ConfigParser(ConfigParser.load_config_files(self.files))
        for key, value in settings.items():
            parser[key] = value
        config = parser.get()
        stage1 = None
        if depends_on(config, STAGE2, STAGE1_RESULT):
            stage1 = {**by_content(fingerprint(config, STAGE1, self.base)), DATA: data.digest}
        stage2 = {**by_content(fingerprint(config, STAGE2, self.base)), DATA: data.digest}
        stage2 |= {f"{STAGE1}: {key}": value for key, value in (stage1 or {}).items()}
        return Cell(
            method=self.spec.name + self.suffix,
            spec=self.spec,
            share=share,
            seed=seed,
            overlays=self.overlays,
            settings=settings,
            config=config,
            base=self.base,
            stage1=stage1,
            stage2=stage2,
        )


def _anywhere(overlay: str) -> str:
    """A path so that it is found from any working directory; names stay names."""
    return str(Path(overlay).resolve()) if Path(overlay).is_file() else overlay
