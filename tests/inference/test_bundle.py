from __future__ import annotations

import io
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch

from cps4_monai.inference.bundle import open_bundle
from cps4_monai.inference.segment import Segmenter


def _zip(folder, path, prefix=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            if file.is_file() and "cps4_monai" not in file.parts:
                archive.write(file, f"{prefix}{file.relative_to(folder)}")
    return path


def test_folder_zip_and_weights_file_are_the_same_bundle(bundle_dir, tmp_path, make_scan):
    image = make_scan().nifti()
    flat, nested = _zip(bundle_dir, tmp_path / "flat.zip"), _zip(bundle_dir, tmp_path / "nested.zip", "spine/")
    expected = Segmenter(bundle_dir, device="cpu")(image, qc=False)
    for given in (flat, str(nested), bundle_dir / "models" / "model.pt"):
        result = Segmenter(given, device="cpu")(image, qc=False)
        np.testing.assert_array_equal(result.labels, expected.labels)
        assert result.record["Weights"]["Sha256"] == expected.record["Weights"]["Sha256"]


def test_classes_spacing_and_normalisation_travel_with_the_weights(bundle_dir, edited_bundle):
    bundle = open_bundle(bundle_dir)
    assert bundle.unannotated == (1,) and bundle.in_plane.spacing_mm == 2.0 and bundle.percentiles == (0.5, 99.5)
    assert bundle.version and bundle.anatomy.names[2] == "L5"
    anatomy = {
        "structures": [
            {"code": c, "name": n, "long_name": n, "kind": k, "order": o}
            for c, n, k, o in ((0, "background", "background", None), (1, "bone", "vertebra", 0))
        ]
    }
    folder = edited_bundle(
        spacing_mm=None,
        slice_size=[64, 48],
        in_plane_mode="central_half",
        percentiles=[1, 99],
        anatomy=anatomy,
        unannotated=[],
        decoding={"min_structures": 3},
    )
    other = open_bundle(folder)
    assert other.in_plane.size == (64, 48) and other.in_plane.mode == "central_half"
    assert other.percentiles == (1.0, 99.0) and other.anatomy.names == ["background", "bone"]
    assert Segmenter(folder, device="cpu").settings["LevelThresholds"]["min_structures"] == 3


def test_weights_of_a_run_are_opened_by_the_plan_beside_them(bundle_dir, tmp_path, make_scan):
    for name in ("model.pt", "plan.json"):
        shutil.copy(bundle_dir / "models" / name, tmp_path / name)
    image = make_scan().nifti()
    expected = Segmenter(bundle_dir, device="cpu")(image, qc=False)
    np.testing.assert_array_equal(
        Segmenter(tmp_path / "model.pt", device="cpu")(image, qc=False).labels, expected.labels
    )
    run = shutil.copytree(tmp_path, tmp_path / "run" / "stage2").parent
    assert open_bundle(run).sha256 == open_bundle(bundle_dir).sha256, "the folder of a training"


def test_weights_that_were_changed_are_refused(edited_bundle):
    folder = edited_bundle()
    model = folder / "models" / "model.pt"
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"SHA-256 .* damaged or were changed"):
        open_bundle(folder)


def test_weights_without_a_checksum_are_used_with_a_warning(edited_bundle, caplog):
    folder = edited_bundle()
    (folder / "models" / "model.pt.sha256").unlink()
    open_bundle(folder)
    assert "could not be checked" in caplog.text


class _Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize("kind", ["pickle", "text", "objects", "other network"])
def test_what_is_no_checkpoint_of_the_network_is_refused_and_never_unpickled(edited_bundle, kind):
    buffer = io.BytesIO()
    if kind == "pickle":
        buffer.write(pickle.dumps(_Evil()))
    elif kind == "text":
        buffer.write(b"these are no weights")
    elif kind == "objects":
        torch.save({"model": _Evil()}, buffer)
    else:
        torch.save({"conv.weight": torch.zeros(7, 1, 1, 1), "conv.bias": torch.zeros(7)}, buffer)
    segmenter = Segmenter(edited_bundle(weights=buffer.getvalue()), device="cpu")
    with pytest.raises(ValueError, match=r"state dict|another network"):
        _ = segmenter.network


@pytest.mark.parametrize(
    "network",
    [
        {"_target_": "os.system", "command": "true"},
        {"_target_": "monai.networks.utils.optional_import", "module": "os"},
        {"_target_": "cps4_monai.networks.load_weights", "network": 1, "path": "x"},
        {"_target_": "monai.networks.blocks.Convolution", "spatial_dims": 2, "no_argument": 1},
        None,
    ],
)
def test_a_plan_is_read_and_never_executed(edited_bundle, network):
    segmenter = Segmenter(edited_bundle(network=network), device="cpu")
    with pytest.raises(ValueError, match=r"not executed|does not fit|no 'network'"):
        _ = segmenter.network


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p, b: p / "nowhere", "no such file or folder"),
        (lambda p, b: p, "no bundle"),
        (lambda p, b: (p / "a.zip", (p / "a.zip").write_bytes(b"PK"))[0], "no bundle"),
        (lambda p, b: (p / "a.pt", (p / "a.pt").write_bytes(b"x"))[0], "no plan.json beside them"),
        (lambda p, b: shutil.make_archive(str(p / "other"), "zip", b / "docs"), "a zip without configs/inference.json"),
    ],
)
def test_what_is_no_bundle_is_told(bundle_dir, tmp_path, make, words):
    with pytest.raises(ValueError, match=words):
        open_bundle(make(tmp_path, bundle_dir))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_with_one_damaged_byte_is_told(tmp_path, bundle_dir, compression):
    path = tmp_path / "spine.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in ("configs/inference.json", "models/model.pt"):
            archive.write(bundle_dir / name, name)
        header = archive.getinfo("models/model.pt").header_offset
    content = path.read_bytes()
    start = header + 30 + len("models/model.pt")
    for place in (header, start, start + 40):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"spine.zip: models/model.pt cannot be read .* copy or export it again"):
            open_bundle(path)


def test_a_bundle_without_weights_says_how_to_get_some(edited_bundle):
    folder = edited_bundle()
    (folder / "models" / "model.pt").unlink()
    with pytest.raises(ValueError, match=r"has no models/model.pt; pass --weights"):
        open_bundle(folder)


def test_a_broken_plan_and_none_are_told(edited_bundle):
    folder = edited_bundle(unannotated=[99])
    with pytest.raises(ValueError, match=r"plan.json: 'unannotated' is \[99\]; expected a list of codes from 1 to 19"):
        open_bundle(folder)
    (folder / "models" / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan.json: no JSON"):
        open_bundle(folder)
    (folder / "models" / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"has no models/plan.json"):
        open_bundle(folder)


def test_a_network_with_other_classes_than_the_anatomy_is_told(edited_bundle, make_scan):
    names = (("background", "background", None), ("bone", "vertebra", 0))
    structures = [{"code": c, "name": n, "long_name": n, "kind": k, "order": o} for c, (n, k, o) in enumerate(names)]
    two = {"structures": structures}
    segmenter = Segmenter(edited_bundle(anatomy=two, unannotated=[]), device="cpu")
    with pytest.raises(ValueError, match="the network has 20 classes, its anatomy 2"):
        segmenter(make_scan().nifti())
