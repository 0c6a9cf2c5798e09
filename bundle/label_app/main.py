"""The bundle as an app of MONAI Label: ``monailabel start_server --app <bundle>/label_app --studies <scans>``.

What MONAI Label's own app for bundles does, and two things that no bundle can tell it: label maps keep the codes of
sform and qform that their scan has, and a training that is not told what to run fine-tunes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monailabel.interfaces.app import MONAILabelApp
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask

BUNDLE = Path(__file__).resolve().parents[1]
sys.path.append(str(BUNDLE))  # an exported bundle brings the package along

from cps4_monai.data.label_file import label_bytes  # noqa: E402
from cps4_monai.data.nifti_file import read_header  # noqa: E402
from cps4_monai.scan_names import is_nifti  # noqa: E402

FINE_TUNE = "training_finetune"


class Infer(BundleInferTask):
    """Label maps by the bundle's inference.json, with the header geometry of their scans."""

    def writer(self, data: dict[str, Any], extension: str | None = None, dtype: Any = None) -> tuple[Any, Any]:
        """File and answer; MONAI Label writes the file through ITK, which sets both codes to 1."""
        file, answer = super().writer(data, extension, dtype)
        scan = data.get("image_path")
        if isinstance(file, str) and scan and is_nifti(file) and is_nifti(scan):
            codes = np.asarray(nib.load(file).dataobj).astype(np.uint8)
            Path(file).write_bytes(label_bytes(Path(file).name, codes, read_header(scan)))
        return file, answer


class Train(BundleTrainTask):
    """Fine-tuning by the bundle's train.json."""

    def __call__(self, request: dict[str, Any], datastore: Any) -> Any:
        """Trains; a request without ``run_id`` or with an empty one fine-tunes."""
        return super().__call__({**request, "run_id": request.get("run_id") or FINE_TUNE}, datastore)


class SpineApp(MONAILabelApp):
    """One model: the bundle that this file lies in."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        super().__init__(app_dir, studies, conf, name=BUNDLE.name, description="Vertebrae and discs in spine MRI")

    def init_infers(self) -> dict[str, Any]:
        """The one way to segment."""
        return {BUNDLE.name: Infer(str(BUNDLE), self.conf)}

    def init_trainers(self) -> dict[str, Any]:
        """The one way to train."""
        return {BUNDLE.name: Train(str(BUNDLE), self.conf)}

    def init_strategies(self) -> dict[str, Any]:
        """Which scan is shown next."""
        return {"random": Random(), "first": First()}
