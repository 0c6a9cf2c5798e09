"""Stores what the released weights make of a phantom; run it once per release, and look at the picture it leaves.

python tests/regression/store_output.py
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

STORED = Path(__file__).with_name("phantom_output.npz")


def phantom_image() -> nib.Nifti1Image:
    """The same phantom each time: 4 slices of 320 x 256 pixels."""
    from cps4_monai.data.phantom import make_phantom

    phantom = make_phantom(7, size=(320, 256), slices=4, variation=0.2)
    return nib.Nifti1Image(phantom.image, phantom.affine)


def main() -> None:
    from cps4_monai import segment

    result = segment(phantom_image())
    np.savez_compressed(STORED, labels=result.labels, sha256=result.record["Weights"]["Sha256"])
    Path("released_phantom.png").write_bytes(result.qc_picture())
    print(f"{STORED}: codes {np.unique(result.labels).tolist()}; look at released_phantom.png")


if __name__ == "__main__":
    main()
