"""Network-ready slices on disk: each NIfTI is read and decompressed once, then slices come from plain arrays."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed

from cps4_monai.anatomy import NOT_ANNOTATED
from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.resampling import AxisMap, field_of_view
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.data.scan_slices import label_to_slices, network_spacing_mm, scan_to_slices
from cps4_monai.data.volume import InvalidVolumeError, Volume, check_same_grid, read_volume
from cps4_monai.encoding import text_bytes
from cps4_monai.threads import whole_cores

logger = logging.getLogger(__name__)

CACHE_FORMAT = 2  # of what is made of the same file: slices of another format are made again


@dataclass(frozen=True)
class CachedSlices:
    """Slices of one volume on the network's grid, on disk.

    Attributes:
        file: the ``.npy`` file.
        shape: (D, H, W).
        dtype: "float16" for images, in [0, 1]; "uint8" for labels.
        offset: bytes before the first voxel.
        content_key: SHA-256 of the source file.
        source: the source file.
        source_shape: voxels of the source, (X, Y, Z).
        affine: of the source, 4 x 4, RAS+ mm.
        spacing_mm: of the cached slices, along D, H and W.
        warnings: what was found odd when the source was read.
    """

    file: Path
    shape: tuple[int, int, int]
    dtype: str
    offset: int
    content_key: str
    source: Path
    source_shape: tuple[int, int, int]
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    warnings: tuple[str, ...]

    @property
    def array(self) -> np.ndarray:
        """(D, H, W) memory map, read only, opened at each access: nothing of it stays in memory when it is dropped."""
        return np.memmap(self.file, dtype=self.dtype, mode="r", offset=self.offset, shape=self.shape)

    @property
    def grid(self) -> SagittalGrid:
        """How the source's voxel axes lie in (D, H0, W0)."""
        return SagittalGrid.from_affine(self.source_shape, self.affine)

    @property
    def view(self) -> tuple[int, int, int, int]:
        """(first H, end H, first W, end W) of the slices that shows the source: beyond it they are padded."""
        grid = self.grid
        pairs = zip(grid.slices_shape[1:], self.shape[1:], self.spacing_mm[1:], grid.spacing_mm[1:], strict=True)
        height, width = (AxisMap.about_the_centre(n, size, mm / of_source) for n, size, mm, of_source in pairs)
        return field_of_view(height, width) or (0, self.shape[1], 0, self.shape[2])

    def slice(self, index: int) -> np.ndarray:
        """(H, W) copy of one slice, read from disk."""
        if not 0 <= index < self.shape[0]:
            raise IndexError(f"slice {index} of {self.source}; expected 0 to {self.shape[0] - 1}")
        count = self.shape[1] * self.shape[2]
        start = self.offset + index * count * np.dtype(self.dtype).itemsize
        return np.fromfile(self.file, self.dtype, count, offset=start).reshape(self.shape[1:])


def _this_of_all() -> tuple[int, int]:
    """Number of this process and of all processes of the run, without ignite, which reading scans does not need."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class SliceCache:
    """Folder of network-ready slices, keyed by the content of the source and the settings.

    Files are written beside their place and renamed, arrays before their sidecars, so that several processes can share
    the folder. An index by path, size and time of change saves reading the sources again in later runs.

    >>> import tempfile
    >>> from cps4_monai.data.phantom import write_phantom_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = write_phantom_dataset(folder, 3, seed=1, size=(64, 64), slices=2)
    ...     cache = SliceCache(Path(folder) / "cache", InPlane((48, 32), 6.0), num_classes=20)
    ...     print(cache.image(data.training[0].image).array.shape)
    (2, 48, 32)

    Args:
        directory: made where it is missing.
        in_plane: geometry of the network's slices.
        lower: percentile of the volume that becomes 0.
        upper: percentile of the volume that becomes 1.
        num_classes: label codes must be below this number, or 255 where nobody annotated; None allows 0 to 255.
        assume_spacing: spacing in mm for headers without geometry.

    Raises:
        ValueError: percentiles out of order.
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        directory: str | Path,
        in_plane: InPlane,
        *,
        lower: float = 0.5,
        upper: float = 99.5,
        num_classes: int | None = None,
        assume_spacing: Sequence[float] | None = None,
    ) -> None:
        if not 0 <= lower < upper <= 100:
            raise ValueError(f"percentiles are {lower} and {upper}; expected 0 <= lower < upper <= 100")
        self.directory = Path(directory)
        self.in_plane = in_plane
        self.lower, self.upper = float(lower), float(upper)
        self.num_classes, self.assume_spacing = num_classes, assume_spacing
        self._settings = {"format": CACHE_FORMAT, **in_plane.to_dict(), "assume_spacing": _plain(assume_spacing)}
        self._known: dict[tuple[Any, ...], CachedSlices] = {}
        self.directory.mkdir(parents=True, exist_ok=True)

    def image(self, path: str | Path) -> CachedSlices:
        """Slices of an image, float16 in [0, 1]; made on first use.

        Raises:
            InvalidVolumeError: see :func:`read_volume`.
        """
        settings = {**self._settings, "kind": "image", "percentiles": [self.lower, self.upper]}
        return self._cached(Path(path), settings, self._make_image)

    def label(self, path: str | Path, image_path: str | Path) -> CachedSlices:
        """Slices of a label map, uint8; checked against the table and the image's grid, made on first use.

        Raises:
            InvalidVolumeError: see :func:`read_volume` and :func:`check_pair`.
        """
        image = self.image(image_path)
        geometry = [list(image.source_shape), image.affine.round(6).tolist()]
        settings = {**self._settings, "kind": "label", "num_classes": self.num_classes, "image": geometry}
        return self._cached(Path(path), settings, lambda source: self._make_label(source, image))

    def prepare(self, entries: Iterable[Any], *, labels: bool = True, workers: int | None = None) -> None:
        """Makes everything that is missing, several volumes at once, and logs the progress.

        Of several processes, each begins with a share of its own and then finds what the others have made.

        Args:
            entries: objects with ``image`` and ``label`` paths; None for a missing label.
            labels: False leaves label files unopened.
            workers: threads; None takes one per core, at most 8.

        Raises:
            InvalidVolumeError: at least one file cannot be used; all such files are in the message.
        """
        pairs = list(dict.fromkeys((Path(e.image), Path(e.label) if labels and e.label else None) for e in entries))
        rank, world_size = _this_of_all()
        pairs = [pair for share in range(world_size) for pair in pairs[(rank + share) % world_size :: world_size]]
        workers = workers or min(8, whole_cores())
        started, step = time.monotonic(), max(1, len(pairs) // 10)
        failures: list[InvalidVolumeError] = []
        with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="slice-cache") as pool:
            jobs = [pool.submit(self._prepare_one, image, label) for image, label in pairs]
            for done, job in enumerate(as_completed(jobs), start=1):
                error = job.exception()
                if isinstance(error, InvalidVolumeError):
                    failures.append(error)
                elif error is not None:
                    for other in jobs:
                        other.cancel()
                    raise error
                if done % step == 0 or done == len(pairs):
                    logger.info("cache: %d of %d volumes, %.1f s", done, len(pairs), time.monotonic() - started)
        if len(failures) == 1:
            raise failures[0]
        if failures:
            failures.sort(key=lambda e: str(e.path))
            rest = "; and ".join(str(e) for e in failures)
            first = failures[0]
            raise InvalidVolumeError(
                first.path, f"{len(failures)} files that cannot be used: {rest}", "usable volumes", "see each of them"
            )

    def _prepare_one(self, image: Path, label: Path | None) -> None:
        self.image(image)
        if label is not None:
            self.label(label, image)

    def _cached(self, path: Path, settings: dict[str, Any], make: Any) -> CachedSlices:
        settings_key = _digest(json.dumps(settings, sort_keys=True))
        identity = (str(path), settings_key)
        if identity in self._known:
            return self._known[identity]
        absolute = path.absolute()
        pointer = self.directory / f"path-{_digest(f'{absolute}|{settings_key}')}.json"
        try:
            status = absolute.stat()
            stamp = [status.st_size, status.st_mtime_ns]
        except OSError:
            stamp = None  # the reader says what is wrong with the file
        slices = self._follow(pointer, stamp, path)
        if slices is None:
            volume, array, warnings = make(path)
            slices = self._store(volume, array, warnings, settings_key)
            write_atomically(pointer, json.dumps({"stamp": stamp, "name": slices.file.stem}), shared=True)
        for warning in slices.warnings:  # in every run, not in the one that made the slices alone
            logger.warning("%s: %s", path, warning)
        self._known[identity] = slices
        return slices

    def _follow(self, pointer: Path, stamp: list[int] | None, path: Path) -> CachedSlices | None:
        if stamp is None:
            return None
        try:
            note = json.loads(pointer.read_text())
            if note["stamp"] != stamp:
                return None
            return self._load(note["name"], path)
        except (OSError, ValueError, KeyError, TypeError):  # absent, or not ours: made again
            return None

    def _load(self, name: str, path: Path) -> CachedSlices | None:
        file = self.directory / f"{name}.npy"
        record = json.loads((self.directory / f"{name}.json").read_text())
        shape, dtype = tuple(record["shape"]), record["dtype"]
        if file.stat().st_size != record["offset"] + int(np.prod(shape)) * np.dtype(dtype).itemsize:
            return None
        return CachedSlices(
            file=file,
            shape=shape,
            dtype=dtype,
            offset=record["offset"],
            content_key=record["content_key"],
            source=path,
            source_shape=tuple(record["source_shape"]),
            affine=np.array(record["affine"]),
            spacing_mm=tuple(record["spacing_mm"]),
            warnings=tuple(record["warnings"]),
        )

    def _make_image(self, path: Path) -> tuple[Volume, np.ndarray, tuple[str, ...]]:
        volume = read_volume(path, assume_spacing=self.assume_spacing)
        scan = scan_to_slices(volume.array, volume.affine, self.in_plane, (self.lower, self.upper), path=path)
        return volume, scan.slices.numpy().astype(np.float16), (*volume.warnings, *scan.warnings)

    def _make_label(self, path: Path, image: CachedSlices) -> tuple[Volume, np.ndarray, tuple[str, ...]]:
        volume = read_volume(
            path,
            is_label=True,
            num_classes=self.num_classes,
            assume_spacing=self.assume_spacing,
            partly_annotated=True,
        )
        check_same_grid(image.source_shape, image.affine, image.source, volume)
        slices = label_to_slices(volume.array, image.grid, self.in_plane).numpy()
        return volume, slices, (*volume.warnings, *_lost_structures(volume.array, slices))

    def _store(self, volume: Volume, array: np.ndarray, warnings: tuple[str, ...], settings_key: str) -> CachedSlices:
        grid = SagittalGrid.from_affine(volume.shape, volume.affine)
        name = f"{volume.content_key}-{settings_key}"
        content = io.BytesIO()
        np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
        record = {
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "offset": content.tell() - array.nbytes,
            "content_key": volume.content_key,
            "source_shape": list(volume.shape),
            "affine": volume.affine.tolist(),
            "spacing_mm": list(network_spacing_mm(grid, self.in_plane)),
            "warnings": list(warnings),
        }
        write_atomically(self.directory / f"{name}.npy", content.getvalue(), shared=True)
        write_atomically(self.directory / f"{name}.json", json.dumps(record), shared=True)
        loaded = self._load(name, volume.path)
        if loaded is None:
            raise OSError(f"{self.directory / name}.npy: written, but not whole; is the disk full?")
        return loaded


def _lost_structures(array: np.ndarray, slices: np.ndarray) -> list[str]:
    """A warning about structures of a label map of which its slices on the network's grid hold nothing."""
    lost = [int(code) for code in np.setdiff1d(array, slices) if code not in (0, NOT_ANNOTATED)]
    told = "outside of slice_size (with in_plane_mode 'central_half', of the central half), or too thin for spacing_mm"
    return (
        [f"the slices of {'x'.join(map(str, slices.shape[1:]))} pixels hold nothing of {lost}: {told}"] if lost else []
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text_bytes(text)).hexdigest()[:20]


def _plain(spacing: Any) -> Any:
    return None if spacing is None else np.atleast_1d(np.asarray(spacing, dtype=float)).tolist()
