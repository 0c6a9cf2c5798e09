"""Weights with their plan, out of a bundle's folder or zip, or out of a run."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cps4_monai.anatomy import Anatomy
from cps4_monai.atomic_file import write_atomically
from cps4_monai.bundle_root import BUNDLE_STAGE1, find_bundle_root
from cps4_monai.file_hash import check_digest
from cps4_monai.plan import FILE_NAME, Plan, parse_plan, plan_path
from cps4_monai.run_folder import FINETUNED_WEIGHTS, STAGE2_WEIGHTS

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cps4_monai.data.in_plane import InPlane

logger = logging.getLogger(__name__)

CONFIG, MODEL, METADATA = "configs/inference.json", "models/model.pt", "configs/metadata.json"
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)  # what damaged zips raise, by the byte that is wrong


@dataclass(frozen=True)
class Bundle:
    """What a segmentation needs to know of its weights.

    Attributes:
        path: the folder, zip or weights file that was given.
        plan: classes, geometry, network and decoding.
        sha256: of the weights' file.
        version: of the bundle, from its metadata; empty for the weights of a run.
        content: bytes of the weights' file.
        read: bytes of another of its files by its place in the bundle; None where there is none.
    """

    path: Path
    plan: Plan
    sha256: str
    version: str
    content: bytes = field(repr=False)
    read: Callable[[str], bytes | None] = field(repr=False, compare=False)

    @property
    def anatomy(self) -> Anatomy:
        """The classes."""
        return self.plan.anatomy

    @property
    def unannotated(self) -> tuple[int, ...]:
        """Codes that the training labels never showed; they can never win."""
        return self.plan.unannotated

    @property
    def percentiles(self) -> tuple[float, float]:
        """Of the volume, that become 0 and 1."""
        return self.plan.percentiles

    @cached_property
    def in_plane(self) -> InPlane:
        """The network's slice geometry at inference."""
        from cps4_monai.data.in_plane import InPlane

        return InPlane.from_dict({**self.plan.in_plane, "size": self.plan.inference_size})

    @cached_property
    def mixed_precision(self) -> tuple[bool, str | None]:
        """``amp`` and ``amp_dtype`` of its inference config, as :class:`~cps4_monai.precision.Precision` takes them.

        They are plain values there; float32 where the config says nothing, or where there is none (weights of a run).

        Raises:
            ValueError: the config cannot be read, or computes them.
        """
        content = self.read(CONFIG)
        try:
            config = {} if content is None else json.loads(content)
        except ValueError as error:
            raise ValueError(f"{self.path}: {CONFIG} is no JSON ({error}); correct it") from error
        amp, dtype = config.get("amp", False), config.get("amp_dtype")
        if not isinstance(amp, bool) or not isinstance(dtype, str | None):
            raise ValueError(
                f"{self.path}: {CONFIG} has amp {amp!r} and amp_dtype {dtype!r}; expected values of JSON: true or "
                "false, and null or the name of a type"
            )
        return amp, dtype

    def build_network(self, device: torch.device) -> nn.Module:
        """The network with its weights, on the device, for inference.

        Raises:
            ValueError: the plan has no usable network, or the weights do not fit it.
        """
        from cps4_monai.networks import build_network, load_weights, place

        network = build_network(self.plan.network, str(self.path))
        load_weights(network, self.path, content=self.content)
        return place(network.float().eval(), device)


def open_bundle(weights: str | Path | None = None) -> Bundle:
    """Reads a bundle and checks its weights against their SHA-256; nothing in it is executed (`weights_only`).

    Args:
        weights: folder or zip of a bundle, or a weights file with its ``plan.json`` beside it: of a bundle
            (``models/model.pt``, ``models/model_finetuned.pt``) or of a run (``stage2/model.pt``); or the folder of a
            run with these; None: the bundle of this package.

    Raises:
        ValueError: no such bundle, no weights in it, a zip that is damaged, a checksum that differs, or a plan that
            cannot be read.
    """
    root = _open_root(weights)
    content = root.read(root.model)
    if content is None:
        where = f"{root.path}: has no {root.model}"
        raise ValueError(
            f"{where}; pass --weights (weights=) with the folder or zip of a bundle that has them: "
            "'cps4 export --run RUN -o bundle.zip' makes one from a training run"
        )
    digest = hashlib.sha256(content).hexdigest()
    _check_digest(root, digest)
    return Bundle(
        path=root.path,
        plan=_plan(root),
        sha256=digest,
        version=_version(root),
        content=content,
        read=root.read,
    )


def stage1_of_bundle(bundle: str | Path | None, into: Path) -> Path | None:
    """The stage 1 that a bundle ships, as a file with its ``plan.json`` beside it; None where it ships none.

    Args:
        bundle: folder or zip; None: the bundle of this package.
        into: folder to which the files of a zip are unpacked.

    Raises:
        ValueError: no bundle, or a zip that is damaged.
    """
    root = _open_root(bundle)
    found = {place: root.read(place.as_posix()) for place in (BUNDLE_STAGE1, BUNDLE_STAGE1.with_name(FILE_NAME))}
    if None in found.values():
        return None
    if root.path.is_dir():
        return root.path / BUNDLE_STAGE1
    for place, content in found.items():
        write_atomically(into / place.name, content or b"")
    return into / BUNDLE_STAGE1.name


class _Root:
    """Files of a bundle by their place in it, from a folder or from a zip; ``model`` is the place of the weights."""

    def __init__(self, path: Path, archive: bool = False, model: str = MODEL) -> None:
        self.path, self.model, self._prefix = path, model, PurePosixPath()
        self._archive = archive
        if archive:
            with zipfile.ZipFile(path) as file:
                places = [PurePosixPath(n) for n in file.namelist() if n == CONFIG or n.endswith(f"/{CONFIG}")]
            if not places:
                raise ValueError(f"{path}: a zip without {CONFIG}; expected a MONAI bundle ('cps4 export' makes one)")
            self._prefix = min(places, key=lambda p: len(p.parts)).parent.parent

    def read(self, name: str) -> bytes | None:
        """Bytes of a file, or None where there is none.

        Raises:
            ValueError: the zip is damaged there.
        """
        if not self._archive:
            file = self.path / name
            return file.read_bytes() if file.is_file() else None
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(str(self._prefix / name))
        except KeyError:
            return None
        except DAMAGED as error:
            raise ValueError(f"{self.path}: {name} cannot be read ({error}); copy or export it again") from error


def _open_root(weights: str | Path | None) -> _Root:
    if weights is None:
        return _Root(find_bundle_root())
    path = Path(weights)
    if not (path / CONFIG).is_file() and (path / STAGE2_WEIGHTS).is_file():  # the folder of a training
        path = path / STAGE2_WEIGHTS
    if path.is_file() and path.suffix == ".pt":
        if not plan_path(path).is_file():
            raise ValueError(
                f"weights {path}: no {FILE_NAME} beside them, so that their classes, spacing and normalisation are not "
                f"known; expected the folder or zip of a bundle, or weights that lie beside their {FILE_NAME}"
            )
        if (path.parent.parent / CONFIG).is_file():
            return _Root(path.parent.parent, model=f"{path.parent.name}/{path.name}")
        return _Root(path.parent, model=path.name)
    try:
        if path.is_dir() and (path / CONFIG).is_file():
            return _Root(path)
        if path.is_file() and zipfile.is_zipfile(path):
            return _Root(path, archive=True)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read as a bundle ({error}); copy or export it again") from error
    if (path / FINETUNED_WEIGHTS).is_file():
        raise ValueError(
            f"weights {path}: the folder of a fine-tuning, with the weights before and after it; expected one of them. "
            f"Fix: name {path / FINETUNED_WEIGHTS}, or {path / MODEL}"
        )
    what = "no such file or folder" if not path.exists() else f"no bundle (it has no {CONFIG})"
    raise ValueError(
        f"weights {path}: {what}; expected a bundle's folder or zip, so that classes, spacing and normalisation "
        "travel with the weights: 'cps4 export' makes one"
    )


def _check_digest(root: _Root, digest: str) -> None:
    recorded = root.read(f"{root.model}.sha256")
    if recorded is None:
        if root.model == MODEL:
            logger.warning("%s has no %s.sha256: the weights could not be checked", root.path, MODEL)
        return
    check_digest(f"{root.path}: {root.model}", digest, recorded)


def _plan(root: _Root) -> Plan:
    place = str(PurePosixPath(root.model).with_name(FILE_NAME))
    content = root.read(place)
    if content is None:
        raise ValueError(
            f"{root.path}: has no {place}, which says what its weights depend on; export the run again: bundles of "
            "cps4_monai before 0.3 have none"
        )
    return parse_plan(content, f"{root.path}/{place}")


def _version(root: _Root) -> str:
    content = root.read(METADATA)
    try:
        return "" if content is None else str(json.loads(content).get("version", ""))
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{root.path}: {METADATA} is no JSON object ({error}); export the bundle again") from error
