"""Bundles as they are shared: package, weights, plan in one zip, and texts that say what is true of these weights."""

from cps4_monai.export.bundle import BUNDLE_NAME, export_bundle, stage_bundle, too_large_for_the_zoo
from cps4_monai.export.of_run import evaluation_of_run, weights_of_run

__all__ = [
    "BUNDLE_NAME",
    "evaluation_of_run",
    "export_bundle",
    "stage_bundle",
    "too_large_for_the_zoo",
    "weights_of_run",
]
