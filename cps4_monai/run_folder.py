"""Where the files of a training lie in its folder, as the bundle's configs put them there."""

from __future__ import annotations

from pathlib import Path

STAGE1, STAGE2 = Path("stage1"), Path("stage2")
STAGE1_WEIGHTS = STAGE1 / "prompted_vision.pt"  # what stage 2 needs of stage 1, of any kind
STAGE2_WEIGHTS = STAGE2 / "model.pt"
FINETUNED_WEIGHTS = Path("models") / "model_finetuned.pt"
ROUNDS = Path("rounds")  # those before the last one, each a run as any other
PSEUDO_LABELS = Path("pseudo_labels.json")  # label maps of stage 2's weights, for the stage 1 of a further round
LOG, RECORD, RESUME = "metrics.csv", "run.json", "resume.pt"  # in the folder of each stage
LABEL_MAPS, VALIDATED_ON = "label maps", "validated on"  # among the settings in a checkpoint: hashes, by subject
HASH_LENGTH = 16  # characters of them: enough to tell label maps apart


def stage1_file(place: Path) -> Path:
    """What a stage 1 left, of the path that names it: the folder of its run, or the file itself."""
    return place / STAGE1_WEIGHTS if place.is_dir() else place
