"""A page's viewer, and the scans in it: slabs around the spine, 8 bit, about the network's grid."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

import nibabel as nib
import numpy as np
from markupsafe import Markup

from cps4_monai.anatomy import MRSPINESEG, Anatomy
from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.label_file import structures_alone
from cps4_monai.palette import structure_colours
from cps4_monai.report.slab import Slab, in_window, rims

GRID_MM = 1.25
COARSER = 1.25
MAX_GRID_MM = 2.5
MARGIN_MM = 25.0  # in front of the spine and behind it; its whole height stays in view, as levels are counted along it
MAX_SCAN_BYTES = 450_000  # 20 scans, their pictures and NiiVue stay below 20 MB
MAX_IN_PAGE = 20
NIIVUE = "niivue.umd.js"
DIFFERENT = "where they differ"
HEAT, MAP_STEPS = "inferno", 16  # colours of maps


@dataclass(frozen=True)
class View:
    """One scan as the viewer shows it.

    Attributes:
        name: of the scan, as the tables and ``corrections.json`` have it.
        scan: gzipped NIfTI of uint8, RAS+.
        layers: gzipped NIfTI of uint8 codes on the same grid by title; the first is shown first.
        maps: gzipped NIfTI of uint8 by code, 255 for 1.0, each on a grid of its own, e.g. attention to the prompt of
            the structure; one of them is laid over the scan.
        note: one line, e.g. the alarms.
        flagged: whether it needs a look.
        label_sha256: of the label map's file, as corrections name it; None: unknown.
        weights_sha256: of what made it.
        fixed: codes that no structure may be renumbered to, because the weights never learned them.
    """

    name: str
    scan: bytes
    layers: Mapping[str, bytes]
    note: str = ""
    flagged: bool = False
    label_sha256: str | None = None
    weights_sha256: str | None = None
    fixed: Sequence[int] = ()
    maps: Mapping[int, bytes] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What the page's script reads."""
        return {
            "name": self.name,
            "note": self.note,
            "flagged": self.flagged,
            "label_sha256": self.label_sha256,
            "fixed": list(self.fixed),
            "scan": _base64(self.scan),
            "layers": [{"title": title, "data": _base64(data)} for title, data in self.layers.items()],
            "maps": [{"code": code, "data": _base64(data)} for code, data in self.maps.items()],
        }


@dataclass(frozen=True)
class Viewer:
    """The viewer as a block of a page.

    Attributes:
        views: scans, what needs a look first.
        anatomy: names and colours.
        corrections: whether levels can be corrected in it; not where a prediction is shown beside its label.
        script: address of NiiVue's file; "" puts it into the page.
        pages: where each scan has a page of its own: this one and those before and after it, as addresses from here.
        place: of this page among them.
        index: address of the page that lists them.
        run: what tells these scans from others, so that corrections are kept for them alone.
        one_weights: whether all scans of the run were made by the same weights, also those on its other pages.
        linked: whether links of the page's tables (:func:`viewer_links`) open its scans; of one viewer of a page alone.
    """

    views: Sequence[View]
    anatomy: Anatomy = MRSPINESEG
    corrections: bool = False
    script: str = ""
    pages: Sequence[str] = ()
    place: int = 0
    index: str = ""
    run: str = ""
    one_weights: bool = True
    linked: bool = True
    template: str = field(default="viewer", init=False)

    @property
    def niivue(self) -> Markup:
        """NiiVue's code."""
        return Markup((niivue_code() or b"").decode("utf-8"))

    @property
    def settings(self) -> Markup:
        """Anatomy and settings for the script, as JSON that may stand in an element."""
        weights = {view.weights_sha256 for view in self.views}
        return _json(
            {
                "structures": anatomy_rows(self.anatomy),
                "corrections": self.corrections,
                "weights_sha256": weights.pop() if len(weights) == 1 and self.one_weights else None,
                "pages": list(self.pages),
                "place": self.place,
                "index": self.index,
                "run": self.run or run_of(self.views),
                "linked": self.linked,
                "map_colours": map_colours() if any(view.maps for view in self.views) else [],
            }
        )

    @property
    def scans(self) -> list[Markup]:
        """Each scan for the script, as JSON that may stand in an element."""
        return [_json(view.to_dict()) for view in self.views]


def viewer_blocks(views: Sequence[View], anatomy: Anatomy, **settings: Any) -> list[Viewer]:
    """The viewer, or nothing where there is nothing to view or nothing to view it with."""
    return [Viewer(views, anatomy, **settings)] if views and niivue_code() is not None else []


def viewer_links(views: Sequence[View]) -> dict[str, str]:
    """Address, within the page that shows them, of each scan by name."""
    return {view.name: f"#scan-{place}" for place, view in enumerate(views)}


def niivue_code() -> bytes | None:
    """NiiVue, or None where the package came without it, as in an exported bundle: pages then have pictures only."""
    file = resources.files("cps4_monai.report") / "niivue" / NIIVUE
    return file.read_bytes() if file.is_file() else None


def run_of(views: Iterable[View]) -> str:
    """What tells these scans and label maps from others."""
    told = hashlib.sha256()
    for view in views:
        for part in (os.fsencode(view.name), *view.layers.values()):
            told.update(hashlib.sha256(part).digest())
    return told.hexdigest()[:16]


def anatomy_rows(anatomy: Anatomy) -> list[dict[str, Any]]:
    """The table of structures with their colours, plain types."""
    colours = structure_colours(anatomy).tolist()
    return [{**vars(structure), "colour": colours[structure.code]} for structure in anatomy.structures]


def map_colours() -> list[list[int]]:
    """RGB of values from 0 to 1 in equal steps, those of the pictures of attention maps."""
    from matplotlib import colormaps

    steps = np.linspace(0.0, 1.0, MAP_STEPS)
    colours: list[list[int]] = np.round(255 * colormaps[HEAT](steps)[:, :3]).astype(int).tolist()
    return colours


def view_of_slab(
    name: str, slab: Slab, maps: Mapping[int, np.ndarray] | None = None, *, outlined: bool = False, **told: Any
) -> View:
    """A scan and its label maps, cut and resampled for a page; on a coarser grid where it would be too large.

    Args:
        name: of the scan.
        slab: the scan and at least one label map.
        maps: by code, (D, h, w) in [0, 1] over the slab's slices, each value that of an equal part of the slice.
        outlined: keep of the label maps only where structures end.
        told: further fields of :class:`View`.
    """
    whole, (depth, width), grid_mm = slab, spine_part(slab), GRID_MM
    slab = cut(slab, depth, width)
    small = resampled(slab, grid_mm)
    scan = _nifti(_grey(small), small.spacing_mm)
    while len(scan) > MAX_SCAN_BYTES and grid_mm < MAX_GRID_MM:
        grid_mm *= COARSER
        small = resampled(slab, grid_mm)
        scan = _nifti(_grey(small), small.spacing_mm)
    drawn = rims if outlined else structures_alone
    layers = {title: _nifti(drawn(label), small.spacing_mm) for title, label in small.labels.items()}
    every = round(small.spacing_mm[0] / slab.spacing_mm[0])
    laid = {code: _map_nifti(values[depth][::every], whole, width, small) for code, values in (maps or {}).items()}
    return View(name, scan, layers, maps=laid, **told)


def with_differences(slab: Slab, first: str, second: str) -> Slab:
    """The slab with one more label map: the code of ``first`` where both differ, that of ``second`` where it has none.

    Voxels that nobody annotated differ in nothing.
    """
    one, other = slab.labels[first], slab.labels[second]
    known = (one == structures_alone(one)) & (other == structures_alone(other))
    differing = np.where(known & (one != other), np.where(one > 0, one, other), 0).astype(np.uint8)
    return replace(slab, labels={**slab.labels, DIFFERENT: differing})


def spine_part(slab: Slab) -> tuple[slice, slice]:
    """Slices with structures and one more on each side, and columns near the spine; all where there are none."""
    marked = np.any([structures_alone(label) > 0 for label in slab.labels.values()], axis=0)
    if not marked.any():
        return slice(0, slab.depth), slice(0, slab.scan.shape[2])
    return _span(marked.any(axis=(1, 2)), 1), _span(marked.any(axis=(0, 1)), round(MARGIN_MM / slab.spacing_mm[2]))


def cut(slab: Slab, depth: slice, width: slice) -> Slab:
    """The slab's slices and columns of these spans."""
    labels = {title: label[depth, :, width] for title, label in slab.labels.items()}
    return replace(slab, scan=slab.scan[depth, :, width], labels=labels)


def resampled(slab: Slab, grid_mm: float) -> Slab:
    """The slab on square pixels of ``grid_mm``, never finer than the scan's, and with no slices closer than that."""
    depth_mm, *pixel_mm = slab.spacing_mm
    spacing = max(grid_mm, *pixel_mm)
    every = max(1, int(grid_mm / depth_mm))
    grid = InPlane(spacing_mm=spacing)
    scan = grid.image(in_window(slab.scan[::every], slab.window), pixel_mm).numpy()
    labels = {title: grid.label(label[::every].copy(), pixel_mm).numpy() for title, label in slab.labels.items()}
    labels = {title: label.astype(np.uint8) for title, label in labels.items()}
    return Slab(scan, labels, (depth_mm * every, spacing, spacing), (0.0, 1.0))


def _span(marked: np.ndarray, margin: int) -> slice:
    places = np.flatnonzero(marked)
    return slice(max(0, int(places[0]) - margin), min(len(marked), int(places[-1]) + 1 + margin))


def _grey(slab: Slab) -> np.ndarray:
    return np.round(slab.scan * 255).astype(np.uint8)


def _nifti(slices: np.ndarray, spacing_mm: Sequence[float]) -> bytes:
    """Slices (D, H, W) as NIfTI with axes to the right, anterior and superior, gzipped."""
    volume = slices.transpose(0, 2, 1)[:, ::-1, ::-1]
    depth, height, width = spacing_mm
    image = nib.Nifti1Image(np.ascontiguousarray(volume), np.diag([depth, width, height, 1.0]))
    return gzip.compress(image.to_bytes(), compresslevel=9, mtime=0)


def _map_nifti(values: np.ndarray, whole: Slab, width: slice, small: Slab) -> bytes:
    """Values (D, h, w) in [0, 1] as a NIfTI that lies where they do on the slices of ``small``.

    Args:
        values: of the slices of ``small``, in equal parts of the slices of ``whole``.
        whole: the slab before it was cut.
        width: its columns that were kept.
        small: what became of them: the middle of its slices is that of the part that was kept.
    """
    volume = np.round(255 * np.clip(values, 0, 1)).astype(np.uint8).transpose(0, 2, 1)[:, ::-1, ::-1]
    kept = ((0, whole.scan.shape[1]), (width.start, width.stop))
    steps, origins = [], []
    for axis, (start, stop) in zip((1, 2), kept, strict=True):
        size, count, pixel_mm = whole.scan.shape[axis], values.shape[axis], whole.spacing_mm[axis]
        last = (count - 0.5) * size / count - 0.5  # where the last value lies, in pixels; it comes first in the file
        middle_mm = (small.scan.shape[axis] - 1) / 2 * small.spacing_mm[axis]
        steps.append(size / count * pixel_mm)
        origins.append(middle_mm - (last - (start + stop - 1) / 2) * pixel_mm)
    affine = np.diag([small.spacing_mm[0], steps[1], steps[0], 1.0])
    affine[1:3, 3] = origins[1], origins[0]
    return gzip.compress(nib.Nifti1Image(np.ascontiguousarray(volume), affine).to_bytes(), compresslevel=9, mtime=0)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _json(content: Mapping[str, Any]) -> Markup:
    """JSON without anything that would end a script element."""
    return Markup(json.dumps(content).replace("<", "\\u003c").replace("&", "\\u0026"))
