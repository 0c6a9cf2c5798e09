"""``metadata.json`` of a bundle: what it says of the weights."""

from __future__ import annotations

import copy
from typing import Any

from cps4_monai import __version__
from cps4_monai.export.facts import NAME, WeightsFacts

SHA256 = "weights_sha256"  # whose weights its figures and texts are about
FIRST_VERSION = "0.1.0"
_CODE_ONLY = "(code and configs; who trained the weights is not recorded)"


def speaks_of(content: dict[str, Any], sha256: str) -> bool:
    """Whether the metadata's figures and texts are about the weights of this SHA-256."""
    return content.get(SHA256) == sha256


def metadata_of_weights(content: dict[str, Any], facts: WeightsFacts) -> dict[str, Any]:
    """The metadata with what they say of weights replaced by what is known of these; the rest is about the code.

    Args:
        content: the metadata of the bundle that the weights are put into.
        facts: of the weights.
    """
    anatomy, (low, high) = facts.plan.anatomy, facts.plan.percentiles
    missing = f"; without labels and never predicted: {facts.not_predicted}" if facts.not_predicted else ""
    made = copy.deepcopy(content)
    made |= {
        "version": FIRST_VERSION,
        "changelog": {FIRST_VERSION: f"weights of a training run, exported by cps4_monai {__version__}"},
        "name": NAME,
        "task": f"Segmentation of sagittal MRI slices into {anatomy.num_classes} classes",
        "description": f"A 2-D network ({facts.network}) that names structures of the spine. The weights are those of "
        f"a training run with cps4_monai, not those that its developers released. {_sentence(facts.training)}",
        "authors": f"The cps4_monai developers {_CODE_ONLY}",
        "copyright": _of_code(str(content.get("copyright", ""))),
        "data_source": f"{facts.training}. Licence of the data: not recorded",
        "image_classes": "one channel, sagittal slices, intensities scaled to [0, 1] by the volume's percentiles "
        f"{low:g} and {high:g}",
        "label_classes": f"one channel, codes: {facts.classes}{missing}",
        "pred_classes": f"{anatomy.num_classes} channels, one logit per class, by code",
        "eval_metrics": dict(facts.figures),
    }
    output = made["network_data_format"]["outputs"]["pred"]
    output["num_channels"], output["channel_def"] = anatomy.num_classes, anatomy.channel_def()
    return made


def _of_code(copyright_line: str) -> str:
    return copyright_line if "code" in copyright_line else f"{copyright_line} (code and configs)".strip()


def _sentence(facts: str) -> str:
    return f"Trained on: {facts}."
