"""Checks made before training starts: what would fail hours later fails now, with the fix."""

from cps4_monai.data.output_folder import check_output_dir
from cps4_monai.preflight.datalist import check_data, check_images
from cps4_monai.preflight.labels import check_reviewed, check_validation_labels
from cps4_monai.preflight.schedule import check_ramp, check_schedule
from cps4_monai.preflight.start import check_prompt_map, check_unlearned
from cps4_monai.preflight.unseen import check_unseen

__all__ = [
    "check_data",
    "check_images",
    "check_output_dir",
    "check_prompt_map",
    "check_ramp",
    "check_reviewed",
    "check_schedule",
    "check_unlearned",
    "check_unseen",
    "check_validation_labels",
]
