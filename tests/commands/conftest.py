"""The coded bundle and scans of tests/inference, for the command's tests, and a folder of inputs to call it on."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner, Result

_spec = importlib.util.spec_from_file_location(
    "coded_fixtures", Path(__file__).resolve().parents[1] / "inference" / "conftest.py"
)
assert _spec is not None and _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
import sys  # noqa: E402

sys.modules[_spec.name] = _fixtures  # dataclasses look their module up
_spec.loader.exec_module(_fixtures)
bundle_dir, edited_bundle, make_scan = _fixtures.bundle_dir, _fixtures.edited_bundle, _fixtures.make_scan
dicom = _fixtures.dicom


class Inputs:
    """A folder of files, and what `cps4 segment` makes of them.

    Attributes:
        folder: the inputs.
        out: the outputs.
        scan: a coded scan.
    """

    def __init__(self, root: Path, bundle: Path) -> None:
        self.root, self.folder, self.out, self.bundle = root, root / "in", root / "out", bundle
        self.folder.mkdir()
        self.scan = _fixtures.coded_scan()

    def save(self, name="s.nii.gz", array=None, change=None, affine=None) -> Path:
        """Writes the scan, or another array, with a header that ``change`` has changed after it was written."""
        affine = self.scan.affine if affine is None else affine
        array = self.scan.image if array is None else array
        image = nib.Nifti1Image(array, affine, dtype=array.dtype)
        image.set_sform(affine, 2)
        image.set_qform(affine, 1)
        content = image.to_bytes()
        if change:  # on the bytes: nibabel would write the header again
            header = nib.Nifti1Header(binaryblock=content[:348], check=False)
            change(header)
            content = header.binaryblock + content[348:]
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
        return path

    def segment(self, *arguments: object, qc: bool = False) -> Result:
        """Calls the command, on the folder unless inputs are named."""
        from cps4_monai.commands.segment import segment

        given = [str(a) for a in arguments]
        given = given if given and not given[0].startswith("-") else [str(self.folder), *given]
        common = ["-o", str(self.out), "-w", str(self.bundle), "-d", "cpu", *([] if qc else ["--no-qc"])]
        return CliRunner().invoke(segment, [*common, *given])

    def segmented(self, *arguments: object) -> None:
        """Calls the command and expects no failure."""
        result = self.segment(*arguments)
        assert result.exit_code == 0, result.output

    def refused(self, *arguments: object) -> str:
        """Calls the command, expects exit code 1 without a traceback, and gives the reason of the only failure."""
        result = self.segment(*arguments)
        assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
        (row,) = self.rows("failures.csv")
        for words in ("found", "expected", "Fix: "):
            assert words in row["reason"], row["reason"]
        assert row["reason"].startswith((row["source"], str(self.out)))  # the file is named
        return row["reason"]

    def rows(self, table: str) -> list[dict[str, str]]:
        """Lines of a table of the run."""
        with open(self.out / table, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def mask(self, name: str = "s") -> nib.Nifti1Image:
        """The label map of a scan."""
        return nib.load(self.out / f"{name}_dseg.nii.gz")

    def codes(self, name: str = "s") -> np.ndarray:
        """Its codes."""
        return np.asarray(self.mask(name).dataobj)

    def record(self, name: str = "s") -> dict:
        """The JSON beside it."""
        return json.loads((self.out / f"{name}_dseg.json").read_text("utf-8"))

    def warnings(self, name: str = "s") -> str:
        """Warnings of a scan, in one string."""
        return "; ".join(self.record(name)["Warnings"])


@pytest.fixture()
def inputs(tmp_path: Path, bundle_dir: Path) -> Inputs:
    """An empty folder of inputs."""
    return Inputs(tmp_path, bundle_dir)
