"""The bundle's app of MONAI Label with the real server: a label asked for, one handed in, training over REST.

Runs in an environment that has MONAI Label (docs/how-to/monai-label.md says which versions go together).
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed: its server is not run")
requests = pytest.importorskip("requests", reason="requests (comes with MONAI Label) is not installed")

START_SECONDS = 300
SCAN_CODES = 2, 0  # of sform and qform, as those of the scans with which MONAI Label's answer had 1 and 1


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture
def server(unzip: Callable, tiny_data: Path, tmp_path: Path) -> Iterator[tuple[str, Path, Path]]:
    """Address of a server with the bundle, the bundle's folder, and that of the scans."""
    bundle = unzip(num_workers=0, min_free_gib=0.0, iterations_per_epoch=2)
    studies = tmp_path / "studies"
    studies.mkdir()
    for scan in sorted(tiny_data.rglob("*_T2w.nii.gz"))[:2]:
        image = nib.load(scan)
        image.set_sform(image.affine, SCAN_CODES[0])
        image.set_qform(image.affine, SCAN_CODES[1])
        nib.save(image, studies / scan.name)
    port, log = free_port(), tmp_path / "server.log"
    command = [
        sys.executable,
        "-m",
        "monailabel.main",
        "start_server",
        "--app",
        bundle / "label_app",
        "--studies",
        studies,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with log.open("w") as file:
        process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, process, log)
        yield address, bundle, studies
    finally:
        process.terminate()
        process.wait(30)


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            if requests.get(f"{address}/info/", timeout=120).ok:
                return
        except requests.exceptions.ConnectionError:
            time.sleep(1)
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")


def test_a_label_is_given_handed_in_and_trained_on(server: tuple[str, Path, Path], tmp_path: Path) -> None:
    address, bundle, studies = server
    before, scans = (bundle / "models" / "model.pt").read_bytes(), sorted(studies.glob("*.nii.gz"))
    for scan in scans:
        name = scan.name.removesuffix(".nii.gz")
        where = {"image": name, "output": "json"}
        told = requests.post(f"{address}/infer/{bundle.name}", params=where, data={"params": '{"device": "cpu"}'})
        assert told.ok, told.text
        assert {"flags", "margin"} <= told.json().keys() and told.json()["label_names"]["vertebra l5"] == 2
        where["output"] = "image"
        given = requests.post(f"{address}/infer/{bundle.name}", params=where, data={"params": '{"device": "cpu"}'})
        label = tmp_path / f"{name}.nii.gz"
        label.write_bytes(given.content)
        made, source = nib.load(label), nib.load(scan)
        assert made.shape == source.shape and np.asarray(made.dataobj).max() < 20
        np.testing.assert_array_equal(made.affine, source.affine)
        assert (int(made.header["sform_code"]), int(made.header["qform_code"])) == SCAN_CODES
        with label.open("rb") as file:
            saved = requests.put(f"{address}/datastore/label", params={"image": name}, files={"label": file})
        assert saved.ok, saved.text
    options = {"device": "cpu", "max_epochs": 1, "val_split": 0.5}  # without run_id
    done = requests.post(f"{address}/train/{bundle.name}", params={"run_sync": True}, json=options)
    assert done.ok, done.text
    assert (bundle / "models" / "model_finetuned.pt").is_file()
    assert (bundle / "models" / "model.pt").read_bytes() == before, "one validation subject is too few to replace it"
    deployed = json.loads(next(bundle.rglob("deployment.json")).read_text())
    assert deployed["deployed"] is False
