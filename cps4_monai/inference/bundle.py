"""Weights with all that belongs to them, out of a bundle's folder or zip: classes, spacing, normalisation, SHA-256."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cps4_monai.anatomy import Anatomy, load_anatomy
from cps4_monai.inference.config_values import ConfigValues

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cps4_monai.data.in_plane import InPlane

logger = logging.getLogger(__name__)

CONFIG, MODEL, METADATA = "configs/inference.json", "models/model.pt", "configs/metadata.json"
ONNX = "models/model.onnx"


@dataclass(frozen=True)
class Bundle:
    """What a segmentation needs to know of its weights.

    Attributes:
        path: the folder, zip or weights file that was given.
        anatomy: the classes.
        unannotated: codes that the training labels never showed; they can never win.
        in_plane: the network's slice geometry.
        percentiles: of the volume, that become 0 and 1.
        sha256: of the weights' file.
        version: of the bundle, from its metadata.
        values: its inference.json.
        content: bytes of the weights' file.
        read: bytes of another of its files by its place in the bundle; None where there is none.
    """

    path: Path
    anatomy: Anatomy
    unannotated: tuple[int, ...]
    in_plane: InPlane
    percentiles: tuple[float, float]
    sha256: str
    version: str
    values: ConfigValues = field(repr=False)
    content: bytes = field(repr=False)
    read: Callable[[str], bytes | None] = field(repr=False, compare=False)

    def build_network(self, device: torch.device) -> nn.Module:
        """The network with its weights, on the device, for inference.

        Raises:
            ValueError: the config has no usable ``network_def``, or the weights do not fit it.
        """
        import torch

        from cps4_monai.networks import load_weights, place

        network = self.values.get("network_def")
        if not isinstance(network, torch.nn.Module):
            raise ValueError(f"{self.path}: its inference.json has no 'network_def'; export the bundle again")
        load_weights(network, self.path, content=self.content)
        return place(network.float().eval(), device)


def open_bundle(weights: str | Path | None = None) -> Bundle:
    """Reads a bundle and checks its weights against their SHA-256; nothing in it is executed or unpickled.

    Args:
        weights: folder or zip of a bundle, or the ``models/model.pt`` of one; None: the bundle of this package.

    Raises:
        ValueError: no such bundle, no weights in it, a checksum that differs, or a config that cannot be read.
    """
    root = _open_root(weights)
    content = root.read(MODEL)
    if content is None:
        where = f"{root.path}: has no {MODEL}"
        raise ValueError(
            f"{where}; pass --weights (weights=) with the folder or zip of a bundle that has them: "
            "'cps4 export --run RUN -o bundle.zip' makes one from a training run"
        )
    digest = hashlib.sha256(content).hexdigest()
    _check_digest(root, digest)
    config = _json(root, CONFIG)
    metadata = _json(root, METADATA, missing={})
    values = ConfigValues(config, f"{root.path}/{CONFIG}")
    anatomy = _anatomy(values, root)
    values = ConfigValues(config, values.where, {"anatomy": anatomy})
    return Bundle(
        path=root.path,
        anatomy=anatomy,
        unannotated=_codes(values, anatomy),
        in_plane=_in_plane(values),
        percentiles=_percentiles(config),
        sha256=digest,
        version=str(metadata.get("version", "")),
        values=values,
        content=content,
        read=root.read,
    )


class _Root:
    """Files of a bundle by their place in it, from a folder or from a zip."""

    def __init__(self, path: Path, archive: bool = False) -> None:
        self.path, self._prefix = path, PurePosixPath()
        self._archive = archive
        if archive:
            with zipfile.ZipFile(path) as file:
                places = [PurePosixPath(n) for n in file.namelist() if n == CONFIG or n.endswith(f"/{CONFIG}")]
            if not places:
                raise ValueError(f"{path}: a zip without {CONFIG}; expected a MONAI bundle ('cps4 export' makes one)")
            self._prefix = min(places, key=lambda p: len(p.parts)).parent.parent

    def read(self, name: str) -> bytes | None:
        """Bytes of a file, or None where there is none."""
        if not self._archive:
            file = self.path / name
            return file.read_bytes() if file.is_file() else None
        with zipfile.ZipFile(self.path) as archive:
            try:
                return archive.read(str(self._prefix / name))
            except KeyError:
                return None


def _open_root(weights: str | Path | None) -> _Root:
    if weights is None:
        from cps4_monai.bundle_root import find_bundle_root

        return _Root(find_bundle_root())
    path = Path(weights)
    if path.is_file() and path.suffix == ".pt" and (path.parent.parent / CONFIG).is_file():
        if path.name != Path(MODEL).name:
            raise ValueError(f"{path}: expected the folder or zip of a bundle, or its {MODEL}")
        return _Root(path.parent.parent)
    try:
        if path.is_dir() and (path / CONFIG).is_file():
            return _Root(path)
        if path.is_file() and zipfile.is_zipfile(path) and path.suffix != ".pt":
            return _Root(path, archive=True)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read as a bundle ({error}); copy or export it again") from error
    found = "no such file or folder" if not path.exists() else f"no bundle (it has no {CONFIG})"
    raise ValueError(
        f"weights {path}: {found}; expected a bundle's folder or zip, so that classes, spacing and normalisation "
        "travel with the weights: 'cps4 export' makes one"
    )


def _check_digest(root: _Root, digest: str) -> None:
    recorded = root.read(f"{MODEL}.sha256")
    if recorded is None:
        logger.warning("%s has no %s.sha256: the weights could not be checked", root.path, MODEL)
        return
    expected = recorded.decode("ascii", errors="replace").split()
    if not expected or expected[0].lower() != digest:
        raise ValueError(
            f"{root.path}: {MODEL} has SHA-256 {digest}, but its .sha256 says {' '.join(expected[:1]) or 'nothing'}: "
            "the weights are damaged or were changed: download or export the bundle again"
        )


def _json(root: _Root, name: str, missing: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    content = root.read(name)
    if content is None and missing is not None:
        return missing
    try:
        parsed = json.loads(content or b"")
    except ValueError as error:
        raise ValueError(f"{root.path}: {name} is no JSON ({error}); export the bundle again") from error
    if not isinstance(parsed, Mapping):
        raise ValueError(f"{root.path}: {name} is a {type(parsed).__name__}; expected an object")
    return parsed


def _anatomy(values: ConfigValues, root: _Root) -> Anatomy:
    source, template = values.get("anatomy_source"), values.get("prompt_template")
    if isinstance(source, str):  # a file of the bundle, wherever the bundle lies now
        for name in (source, f"configs/{source}", f"configs/{PurePosixPath(source).name}"):
            content = None if PurePosixPath(name).is_absolute() else root.read(name)
            if content is not None:
                return load_anatomy(json.loads(content), template)
    return load_anatomy(source, template)


def _codes(values: ConfigValues, anatomy: Anatomy) -> tuple[int, ...]:
    codes = values.get("unannotated", [])
    if not isinstance(codes, list) or not all(type(c) is int and 0 < c < anatomy.num_classes for c in codes):
        raise ValueError(
            f"{values.where}: 'unannotated' is {codes!r}; expected a list of codes from 1 to {anatomy.num_classes - 1}"
        )
    return tuple(sorted(set(codes)))


def _in_plane(values: ConfigValues) -> InPlane:
    from cps4_monai.data.in_plane import InPlane

    return InPlane.from_dict(
        {
            "spacing_mm": values.get("spacing_mm"),
            "size": values.get("slice_size"),
            "mode": values.get("in_plane_mode", "spacing"),
        }
    )


def _percentiles(config: Mapping[str, Any]) -> tuple[float, float]:
    """Those of the config's ``ToSagittalSlicesd``, whose defaults they share."""
    for transform in config.get("preprocessing", {}).get("transforms", []):
        if str(transform.get("_target_", "")).endswith(".ToSagittalSlicesd"):
            return float(transform.get("lower", 0.5)), float(transform.get("upper", 99.5))
    return 0.5, 99.5
