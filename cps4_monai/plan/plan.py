"""What must travel with weights so that they are used as they were trained: classes, geometry, network, decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cps4_monai.anatomy import Anatomy, load_anatomy

FORMAT = "cps4_monai.plan"
VERSION = 1
MODES = ("spacing", "central_half")
FINE_TUNED = "fine_tuned"  # among what weights were trained on: one text for each time, with the start of their SHA-256
DIGEST_LENGTH = 12  # characters of a SHA-256 in such texts
_DECIDES_PIXELS = ("spacing_mm", "in_plane_mode", "percentiles")


class PlanError(ValueError):
    """A plan that is not there, cannot be read, or is not that of the weights at hand."""


@dataclass(frozen=True)
class Plan:
    """Everything that a network's weights depend on, in plain values; it is written beside them as ``plan.json``.

    Training writes it when it starts. Evaluation, inference, fine-tuning, export and `cps4 segment` read it, so that
    nobody has to know, or guess, how weights were made.

    >>> from cps4_monai.anatomy import MRSPINESEG
    >>> plan = Plan(MRSPINESEG, unannotated=(1,), spacing_mm=1.5, slice_size=(208, 112))
    >>> plan.in_plane
    {'size': (208, 112), 'spacing_mm': 1.5, 'mode': 'spacing'}

    Attributes:
        anatomy: the classes, by code, and the template of their prompts.
        unannotated: codes that the training labels never showed; they can never win.
        spacing_mm: pixel distance of the slices in plane, in mm; None: the scan's own.
        slice_size: (H, W) in pixels that training crops or pads to; None: the whole field of view.
        in_plane_mode: "spacing", or "central_half" (see :class:`cps4_monai.data.in_plane.InPlane`).
        percentiles: of a volume's intensities, that become 0 and 1.
        network: ``_target_`` and plain arguments of the deployed network; None where the file holds no such weights
            (stage 1), or a network that does not say how it was made.
        activation: how the logits of the attention become maps, "sigmoid" or "softmax"; None: no class prompts.
        decoding: thresholds of the level decoding that differ from those of
            :class:`cps4_monai.levels.LevelThresholds`, by name.
        flags: calibration of the flags that these weights' results get, see
            :class:`cps4_monai.levels.flag_calibration.FlagCalibration`; empty: none was made.
        trained_on: what the weights have seen, for people: data set, numbers of subjects, method. No names of subjects.

    Raises:
        PlanError: a value that cannot be one of these; the message names the field.
    """

    anatomy: Anatomy
    unannotated: tuple[int, ...] = ()
    spacing_mm: float | None = None
    slice_size: tuple[int, int] | None = None
    in_plane_mode: str = "spacing"
    percentiles: tuple[float, float] = (0.5, 99.5)
    network: Mapping[str, Any] | None = None
    activation: str | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    trained_on: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "unannotated", _codes(self.unannotated, self.anatomy))
        object.__setattr__(self, "spacing_mm", _spacing(self.spacing_mm))
        object.__setattr__(self, "slice_size", _size(self.slice_size))
        object.__setattr__(self, "percentiles", _percentiles(self.percentiles))
        if self.in_plane_mode not in MODES:
            raise PlanError(f"'in_plane_mode' is {self.in_plane_mode!r}; expected one of {list(MODES)}")
        if self.network is not None and not isinstance(self.network.get("_target_"), str):
            raise PlanError(f"'network' is {self.network!r}; expected an object with _target_ and plain arguments")

    @property
    def inference_size(self) -> tuple[int, int] | None:
        """(H, W) of the slices at inference: None, the whole field of view, save for "central_half"."""
        return self.slice_size if self.in_plane_mode == "central_half" else None

    @property
    def in_plane(self) -> dict[str, Any]:
        """Geometry of the slices that training saw, in the form that ``InPlane.from_dict`` reads."""
        return {"size": self.slice_size, "spacing_mm": self.spacing_mm, "mode": self.in_plane_mode}

    def of_stage2(self, network: Mapping[str, Any] | None, method: Any) -> Plan:
        """The same plan for the weights of stage 2.

        Args:
            network: what is deployed, see :func:`cps4_monai.networks.describe`.
            method: that trains it: its class is named, and the activation of the attention kept where it uses one.
        """
        activation = self.activation if method.needs_prompt_map else None
        return replace(self.with_training(method=type(method).__name__), network=network, activation=activation)

    def of_objective(self, objective: str) -> Plan:
        """The same plan, which says by which objective stage 1 was trained; one without a name is not said."""
        return self.with_training(stage_1=objective) if objective else self

    def of_labeled_scans(self) -> Plan:
        """The same plan for weights that learned from the labeled scans alone."""
        return self.with_training(unlabeled_scans=0)

    def with_training(self, **facts: Any) -> Plan:
        """The same plan with more said about what the weights were trained on."""
        return replace(self, trained_on={**self.trained_on, **facts})

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, the form of ``plan.json``."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "spacing_mm": self.spacing_mm,
            "slice_size": None if self.slice_size is None else list(self.slice_size),
            "in_plane_mode": self.in_plane_mode,
            "percentiles": list(self.percentiles),
            "unannotated": list(self.unannotated),
            "network": None if self.network is None else dict(self.network),
            "activation": self.activation,
            "decoding": dict(self.decoding),
            "flags": dict(self.flags),
            "trained_on": dict(self.trained_on),
            "anatomy": self.anatomy.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Any, where: str = "plan.json") -> Plan:
        """The inverse of :meth:`to_dict`.

        Args:
            content: what the file holds.
            where: the file's name, for messages.

        Raises:
            PlanError: another form, or a value that cannot be used.
        """
        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            raise PlanError(f"{where}: not a plan (its 'format' is not {FORMAT!r}); expected the file beside weights")
        if content.get("version") != VERSION:
            raise PlanError(
                f"{where}: version {content.get('version')!r} of a plan, expected {VERSION}; use the version of "
                "cps4_monai that wrote it, or export the run again"
            )
        fields = {key: value for key, value in content.items() if key not in ("format", "version")}
        unknown, missing = sorted(fields.keys() - cls.__annotations__.keys()), sorted(_REQUIRED - fields.keys())
        if unknown or missing:
            raise PlanError(f"{where}: unknown fields {unknown}, missing fields {missing}; expected those of a plan")
        try:
            return cls(**{**fields, "anatomy": load_anatomy(fields["anatomy"], stored=True)})
        except (ValueError, TypeError, AttributeError) as error:
            raise PlanError(f"{where}: {error}") from error

    def summary(self) -> dict[str, Any]:
        """Name -> value, for a report: all but the table of classes."""
        kept = self.to_dict()
        trained_on = {f"trained on, {key.replace('_', ' ')}": value for key, value in self.trained_on.items()}
        for key in ("format", "version", "anatomy", "trained_on", "flags"):
            del kept[key]
        kept["flags"] = self.flags.get("calibrated_on") or "not calibrated"
        return {**kept, "classes": self.anatomy.num_classes, **trained_on}

    def differences(self, other: Plan) -> list[str]:
        """What would make weights of the other plan useless here: their pixels or their classes, in words.

        The size that training crops to is none of it, except where slices are resized to it.
        """
        differences = []
        for key in _DECIDES_PIXELS:
            mine, theirs = getattr(self, key), getattr(other, key)
            if mine != theirs:
                setting = f"cache#{key}" if key == "percentiles" else key
                differences.append(f"{setting} is {mine}, of the weights {theirs}")
        if self.inference_size != other.inference_size:
            differences.append(f"slice_size is {self.inference_size}, of the weights {other.inference_size}")
        if self.anatomy.names != other.anatomy.names:
            differences.append(f"classes are {self.anatomy.names}, of the weights {other.anatomy.names}")
        return differences


_REQUIRED = {"anatomy", "unannotated", "spacing_mm", "slice_size", "in_plane_mode", "percentiles", "network"}


def _codes(codes: Any, anatomy: Anatomy) -> tuple[int, ...]:
    listed = list(codes) if isinstance(codes, Sequence) and not isinstance(codes, str) else None
    if listed is None or not all(type(c) is int and 0 < c < anatomy.num_classes for c in listed):
        raise PlanError(f"'unannotated' is {codes!r}; expected a list of codes from 1 to {anatomy.num_classes - 1}")
    return tuple(sorted(set(listed)))


def _spacing(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise PlanError(f"'spacing_mm' is {value!r}; expected a positive number of mm, or null")
    return float(value)


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, Sequence) or len(value) != 2 or not all(type(n) is int and n > 0 for n in value):
        raise PlanError(f"'slice_size' is {value!r}; expected two positive numbers of pixels [H, W], or null")
    return value[0], value[1]


def _percentiles(value: Any) -> tuple[float, float]:
    two = isinstance(value, Sequence) and len(value) == 2 and all(isinstance(n, int | float) for n in value)
    if not two or not 0 <= value[0] < value[1] <= 100:
        raise PlanError(f"'percentiles' is {value!r}; expected two numbers in order within 0 to 100")
    return float(value[0]), float(value[1])
