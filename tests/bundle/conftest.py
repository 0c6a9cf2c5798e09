"""A bundle as it is shared: exported, zipped and unzipped, with a small untrained network that sees every class."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.data.normalise import percentile_window, scale_to_window
from cps4_monai.data.phantom import make_phantom
from cps4_monai.export import BUNDLE_NAME, export_bundle
from cps4_monai.networks import ResUNet
from cps4_monai.plan import Plan, write_plan

FEATURES = [4, 8]
PLAN = Plan(MRSPINESEG, (1,), 7.5, (64, 32), network={"_target_": "cps4_monai.networks.ResUNet", "features": FEATURES})


@pytest.fixture(scope="session")
def exported_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip that `cps4 export --half` makes."""
    folder = tmp_path_factory.mktemp("exported_zip")
    torch.manual_seed(0)
    network = ResUNet(features=FEATURES)
    image = make_phantom(0, size=(64, 64), slices=2).image
    slices = scale_to_window(image, percentile_window(image))
    image = torch.from_numpy(slices).float()[:, None]
    with torch.no_grad():
        network.train()(image)  # statistics of BatchNorm
        network.head.bias -= network.eval()(image).mean(dim=(0, 2, 3))  # no class wins everywhere
    torch.save(network.state_dict(), folder / "weights.pt")
    write_plan(folder, PLAN)
    return export_bundle(find_bundle_root(), folder / "spine.zip", folder / "weights.pt", half=True)


@pytest.fixture
def unzip(exported_zip: Path, tmp_path: Path) -> Callable[..., Path]:
    """Function that unzips it into a folder of one's own, with other values in its train.json, at ids as ``a#b``."""

    def make(**train_settings: object) -> Path:
        with zipfile.ZipFile(exported_zip) as archive:
            archive.extractall(tmp_path / "bundles")
        folder = tmp_path / "bundles" / BUNDLE_NAME
        config = folder / "configs" / "train.json"
        content = json.loads(config.read_text("utf-8"))
        for setting, value in train_settings.items():
            *parents, last = setting.split("#")
            node = content
            for parent in parents:
                node = node[parent]
            node[last] = value
        config.write_text(json.dumps(content), encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def exported_bundle(exported_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It, unzipped, to look at; a test that changes it takes ``unzip``."""
    folder = tmp_path_factory.mktemp("exported_bundle")
    with zipfile.ZipFile(exported_zip) as archive:
        archive.extractall(folder)
    return folder / BUNDLE_NAME


@pytest.fixture
def same_search_path() -> Iterator[None]:
    """The configs put the bundle's folder on the module search path; with this it does not stay there."""
    before = list(sys.path)
    yield
    sys.path[:] = before
