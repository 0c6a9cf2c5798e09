"""Rounds of both stages: what stage 2 makes of the unlabeled scans, levels decoded, trains stage 1 again.

A stage 1 that has seen a dozen labeled scans knows them by heart. What stage 2 makes of the unlabeled scans, once
their levels are decoded, is many more scans for a second stage 1, whose prompt maps a second stage 2 learns from. Only
stage 1 ever trains on such labels; stage 2 has the labels of people, as in the first round.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np

from cps4_monai.anatomy import NOT_ANNOTATED
from cps4_monai.atomic_file import write_atomically
from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.data.build_datalist import classes_shown
from cps4_monai.data.entries import Datalist, DatalistError, Entry
from cps4_monai.data.label_file import write_label_volume
from cps4_monai.data.volume import read_volume
from cps4_monai.export import export_bundle, weights_of_run
from cps4_monai.failure import cause_of
from cps4_monai.file_hash import file_sha256
from cps4_monai.inference.batch import SegmentationRun, segment_scans
from cps4_monai.inference.outcome import ScanOutcome
from cps4_monai.methods.prompted_pretraining import PromptedPretraining
from cps4_monai.run_folder import PSEUDO_LABELS, RECORD, RESUME, ROUNDS, STAGE1, STAGE1_WEIGHTS, STAGE2
from cps4_monai.training_lock import alone_in
from cps4_monai.workflow import CPS4Workflow, run_workflow

logger = logging.getLogger(__name__)

WEIGHTS, SEGMENTED, LABELS = "weights.zip", "unlabeled_scans", "pseudo_labels"
START = "stage1#start_from"


def train_in_rounds(rounds: int, output: Path, settings: Mapping[str, Any], **workflow: Any) -> None:
    """Trains stage 1 and stage 2, ``rounds`` times; called again, it goes on where it stopped.

    Round k lies in ``output/rounds/k``, a run as any other; the last one in ``output`` itself. From the second on,
    stage 1 trains on the labels of people and on the label maps of the round before (:func:`label_unlabeled`), and its
    image encoder goes on from that round's.

    Args:
        rounds: 2 or more.
        output: folder of the run.
        settings: id -> value, as for :class:`cps4_monai.workflow.CPS4Workflow`, with ``datalist`` and ``dataset_dir``.
        **workflow: further arguments of :class:`cps4_monai.workflow.CPS4Workflow`.

    Raises:
        ValueError: fewer than 2 rounds, a method without prompts, no unlabeled scan, one file for the stage 1 of all
            rounds, a stage 1 without class prompts (VESSA), a run of another number of rounds in ``output``, or as the
            stages and `cps4 segment` have it.
    """
    if rounds < 2:
        raise ValueError(f"rounds is {rounds}; expected 2 or more: a single one is `cps4 train all` without --rounds")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            f"rounds is {rounds}, and WORLD_SIZE {os.environ['WORLD_SIZE']}: between the rounds one process segments. "
            "Fix: start it without torchrun, or train each round by itself (docs/how-to/train-on-your-own-data.md)"
        )
    if "stage1_checkpoint" in settings:
        raise ValueError(
            f"stage1_checkpoint is {settings['stage1_checkpoint']}, and each round has a stage 1 of its own. Fix: "
            "leave it out"
        )
    _require_same_rounds(rounds, output)
    shared = {"cache_dir": str(output / "cache"), **settings}
    workflow = {"also_read_by": ("training_stage1", "training_stage2"), **workflow}
    if "datalist" in settings:
        _check_settings(**{**workflow, **shared, "output_dir": str(output), "tracking": None})
    stage1_data: dict[str, Any] = {}
    start: dict[str, Any] = {}
    (output / ROUNDS).mkdir(parents=True, exist_ok=True)
    with alone_in(output / ROUNDS):  # each stage has its run's folder to itself, but not what lies between stages
        for number in range(1, rounds + 1):
            folder = output if number == rounds else output / ROUNDS / str(number)
            own = {**shared, **start, "output_dir": str(folder)}
            logger.info("round %d of %d, in %s", number, rounds, folder)
            run_workflow(run_id="training_stage1", **{**workflow, **own, **stage1_data})
            trained = run_workflow(run_id="training_stage2", **{**workflow, **own})
            if number < rounds:
                data = trained.parser.get_parsed_content("data")
                cache = trained.parser.get_parsed_content("cache")
                device = str(settings.get("device_name", "auto"))
                labels = label_unlabeled(folder, data, device, cache.assume_spacing)
                del trained  # its networks make room for those of the next round
                stage1_data = {"datalist": str(labels), "labeled_share": None, "labeled_subjects": None}
                start = {START: str(folder / STAGE1_WEIGHTS)}


def label_unlabeled(
    run: Path, data: Datalist, device: str = "auto", assume_spacing: Sequence[float] | None = None
) -> Path:
    """Label maps of the unlabeled training scans by a run's best weights, levels decoded, and their datalist.

    Scans whose result raises an alarm (`cps4 segment`) are left out, with a line that says how many. Structures that no
    label of a person shows are 255, not annotated: the level logic names a T12 above the last labeled vertebra, which
    those labels call background.

    Args:
        run: folder of a run with a finished stage 2; it gets ``weights.zip``, the results with their report in
            ``unlabeled_scans``, the label maps in ``pseudo_labels``, and the datalist.
        data: what the run trained on.
        device: "auto", "cpu", "cuda:N" or "mps".
        assume_spacing: in mm, of scans whose header has none, as the run assumed it.

    Returns:
        The datalist, ``pseudo_labels.json``: scans labeled by people as they are, the others with these label maps.

    Raises:
        DatalistError: no unlabeled scan, not one of them without an alarm, or a datalist that is there already and
            whose label maps were made by other weights of this run.
    """
    _require_unlabeled(data)
    path, weights = run / PSEUDO_LABELS, weights_of_run(run)
    sha256 = file_sha256(weights)
    if path.is_file():
        return _unchanged(path, sha256, run)
    bundle = export_bundle(find_bundle_root(), run / WEIGHTS, weights)
    scans = {entry.image.resolve(): entry for entry in data.unlabeled}
    options = {"weights": bundle, "device": device, "assume_spacing": assume_spacing, "qc": False}
    result = _segmented_by(sha256, list(scans), run / SEGMENTED, **options)
    made = [(scans[one.source.resolve()], one.label) for one in result.segmented if one.label and not one.alarms]
    if not made:
        raise DatalistError(
            f"{run}: of {len(scans)} unlabeled scans none was segmented without an alarm (see {result.report}); "
            "expected some for a second round. Fix: train the first one longer, or leave --rounds out"
        )
    logger.info("%d of %d unlabeled scans are labels of the next stage 1", len(made), len(scans))
    known = classes_shown(data.labeled)
    new = [
        replace(entry, label=_of_known_classes(label, known, run / LABELS / f"{number:05d}_{label.name}"), classes=None)
        for number, (entry, label) in enumerate(made, start=1)
    ]
    content = {
        "name": f"{data.name} with labels of its unlabeled scans",
        "weights_sha256": sha256,
        "unannotated": list(data.unannotated),
        "structures": {str(code): name for code, name in data.structures.items()},
        "training": [_entry(entry) for entry in (*data.labeled, *new)],
        "validation": [_entry(entry) for entry in data.validation],
        "test": [],
    }
    return write_atomically(path, json.dumps(content, indent=1) + "\n")


def _check_settings(**workflow: Any) -> None:
    """Refuses what a round would refuse, or learn nothing new from: both stages are set up, and nothing is trained.

    Raises:
        ValueError: a setting or a datalist that cannot be used, or a method without prompts.
        DatalistError: no unlabeled scans.
    """
    try:
        stage2 = CPS4Workflow(run_id="training_stage2", **workflow)
        if not stage2.asks_for_prompts:
            raise ValueError(
                "--rounds is for a method that asks for prompts, which a second stage 1 knows better: this one has no "
                "stage 1 (train#provider is null). Fix: leave --rounds out, or choose another method (cps4, cps4_plus)"
            )
        _require_class_prompts(stage2.parser.get("stage1#method#_target_"))
        _require_unlabeled(stage2.parser.get_parsed_content("data"))
        for part in ("stage1#stage", "train#stage", "check_stage2"):
            stage2.parser.get_parsed_content(part)
    except RuntimeError as error:  # what MONAI's parser makes of any error
        raise cause_of(error) from None


def _require_class_prompts(method: str | None) -> None:
    """Refuses a stage 1 whose file is bound to the labeled scans, as that of an assistant with templates is."""
    found = locate(method or "")
    if isinstance(found, type) and not issubclass(found, PromptedPretraining):
        raise ValueError(
            f"--rounds is for a stage 1 of class prompts, and stage1#method is {found.__name__}, whose weights are "
            "bound to the labeled scans that it has for templates. Fix: leave --rounds out"
        )


def _require_same_rounds(rounds: int, output: Path) -> None:
    """Refuses a last round that its own checkpoints would refuse once all rounds before it are trained.

    Raises:
        ValueError: ``output`` holds checkpoints of another number of rounds.
    """
    begun = [output / stage / RESUME for stage in (STAGE1, STAGE2) if (output / stage / RESUME).is_file()]
    before = _rounds_of(output)
    if begun and before != rounds:
        same = f"go on with --rounds {before}" if before > 1 else "leave --rounds out"
        raise ValueError(
            f"{begun[0]}: of a run of {before} round{'s' * (before > 1)}, expected the last of {rounds}, which goes on "
            f"from another stage 1. Fix: choose another output folder, or {same}"
        )


def _rounds_of(output: Path) -> int:
    """Of how many rounds a run is the last, by where its stage 1 went on from; 1 where that was no round."""
    record = output / STAGE1 / RECORD
    if not record.is_file():
        return 1
    started = json.loads(record.read_text(encoding="utf-8"))["starts"][-1]["settings"]
    folder = Path(started.get(START) or "").parent.parent  # .../rounds/2/stage1/prompted_vision.pt
    return int(folder.name) + 1 if folder.parent.name == ROUNDS.name and folder.name.isdecimal() else 1


def _require_unlabeled(data: Datalist) -> None:
    """Refuses rounds in which nothing new would be learned."""
    if not data.unlabeled:
        raise DatalistError(
            f"datalist {data.name or '(unnamed)'}: every training scan has a label, a second round would train on "
            "nothing new; expected unlabeled ones. Fix: leave --rounds out, or choose a smaller labeled share"
        )


def _segmented_by(sha256: str, scans: list[Path], folder: Path, **options: Any) -> SegmentationRun:
    """Segments the scans; all of them again where a label map of other weights is kept from a start that was stopped.

    Args:
        sha256: of the weights.
        scans: to segment.
        folder: of the results.
        **options: of :func:`cps4_monai.inference.batch.segment_scans`.

    Raises:
        DatalistError: results that say that other weights made them, even so.
    """
    result = segment_scans(scans, folder, **options)
    if _of_others(sha256, result):
        logger.info("%s: holds results of other weights; all scans are segmented again", folder)
        result = segment_scans(scans, folder, overwrite=True, **options)
    if others := _of_others(sha256, result):
        raise DatalistError(
            f"{others[0].label}: is of weights {_weights_of(others[0])[:12]}..., expected {sha256[:12]}..., the "
            f"round's. Fix: delete {folder} and start again"
        )
    return result


def _of_others(sha256: str, result: SegmentationRun) -> list[ScanOutcome]:
    """Scans whose label map other weights made."""
    return [one for one in result.segmented if _weights_of(one) != sha256]


def _weights_of(outcome: ScanOutcome) -> str:
    return str(outcome.record.get("Weights", {}).get("Sha256", ""))


def _of_known_classes(label: Path, known: set[int], path: Path) -> Path:
    """Writes the label map with 255 for other structures."""
    volume = read_volume(label, is_label=True)
    kept = np.isin(volume.array, [0, *known])
    return write_label_volume(path, np.where(kept, volume.array, NOT_ANNOTATED), volume)


def _unchanged(datalist: Path, sha256: str, run: Path) -> Path:
    """The datalist that is there, if weights with this hash made its label maps; of a run that was moved, with them."""
    content = json.loads(datalist.read_text(encoding="utf-8"))
    made_by = str(content.get("weights_sha256", ""))
    if made_by != sha256:
        raise DatalistError(
            f"{datalist}: its label maps are of weights {made_by[:12]}..., the round's are {sha256[:12]}... now; "
            "expected the same: the rounds after it learned from these label maps. Fix: choose another output folder"
        )
    moved = False
    for entry in content["training"]:
        label = Path(entry.get("label", ""))
        here = (run / LABELS / label.name).resolve()
        if label.parent.name == LABELS and label != here and here.is_file():
            entry["label"], moved = str(here), True
    return write_atomically(datalist, json.dumps(content, indent=1) + "\n") if moved else datalist


def _entry(entry: Entry) -> dict[str, str]:
    """As datalists have it, with whole paths: the files lie in several folders."""
    label = {} if entry.label is None else {"label": str(entry.label.resolve())}
    return {"image": str(entry.image.resolve()), **label, "subject": entry.subject, "patient": entry.patient}
