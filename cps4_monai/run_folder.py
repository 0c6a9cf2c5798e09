"""Where the files of a training lie in its folder, as the bundle's configs put them there."""

from __future__ import annotations

from pathlib import Path

PRETRAINING, STAGE1, STAGE2, FINETUNE = Path("pretraining"), Path("stage1"), Path("stage2"), Path("finetune")
STAGE1_WEIGHTS = STAGE1 / "prompted_vision.pt"  # what stage 2 needs of stage 1, of any kind
STAGE2_WEIGHTS = STAGE2 / "model.pt"
FINETUNED_WEIGHTS = Path("models") / "model_finetuned.pt"
DECISION = "deployment.json"  # of a fine-tuning: whether its weights took the place of those before, and why
ROUNDS = Path("rounds")  # those before the last one, each a run as any other
PSEUDO_LABELS = Path("pseudo_labels.json")  # label maps of stage 2's weights, for the stage 1 of a further round
LOG, RECORD, RESUME = "metrics.csv", "run.json", "resume.pt"  # in the folder of each stage
LABEL_MAPS = "label maps"  # among the settings in records and checkpoints: hashes, by subject
LABELED, UNLABELED, VALIDATED_ON = "labels of", "without labels", "validated on"  # lists of subjects there
HASH_LENGTH = 16  # characters of them: enough to tell label maps apart


def refuse_other_kind(output: Path, stage: str, rounds: int = 1) -> None:
    """Refuses the folder of a run of another kind: its ``config.json`` would be replaced, or its last round made alone.

    Args:
        output: folder of the run.
        stage: what is to be trained: "pretraining", "stage1", "stage2", "all" or "finetune".
        rounds: 1, or the number of rounds of "all".

    Raises:
        ValueError: names the training that is there.
    """
    others = (PRETRAINING, STAGE1, STAGE2) if stage == "finetune" else (FINETUNE,)
    found = [str(folder / RECORD) for folder in others if (output / folder / RECORD).is_file()]
    if found:
        what = "a fine-tuning" if stage == "finetune" else f"a training of {stage}"
        raise ValueError(
            f"{output}: holds another kind of training ({', '.join(found)}), whose config.json {what} would replace; "
            "expected a folder of its own. Fix: choose another output folder (-o)"
        )
    begun = {path.parents[1].name for path in (output / ROUNDS).glob(f"*/*/{RECORD}")}
    if begun and rounds == 1 and stage in ("stage1", "all"):
        last = max((int(name) for name in begun if name.isdecimal()), default=1) + 1
        raise ValueError(
            f"{output}: holds rounds of a training ({output / ROUNDS}), of which this would be the last one alone. "
            f"Fix: go on with them by 'cps4 train all --rounds {last}', or a larger number that they were begun with, "
            "or choose another output folder (-o)"
        )


def has_checkpoint(output: Path) -> bool:
    """Whether a training in a run's folder, or a round of it, can go on from an epoch that it has kept."""
    return any(next(output.glob(f"{place}*/{RESUME}"), None) for place in ("", f"{ROUNDS}/*/"))


def stage1_file(place: Path) -> Path:
    """What a stage 1 left, of the path that names it: the folder of its run, or the file itself."""
    return place / STAGE1_WEIGHTS if place.is_dir() else place


def evaluation_folder(run: str | Path, section: str = "test") -> Path:
    """Where the scores of a section of the data lie in a run's folder: those of the test are what an export states."""
    run = Path(str(run))  # MONAI takes "2025" for a number
    return run / ("evaluation" if section == "test" else f"evaluation_{section}")
