"""Every threshold of the level logic, in one place, each with its unit and its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

# Thresholds of earlier versions, in plans that they wrote; `unanchored_margin` gave way to the alarm `unanchored`.
RETIRED = frozenset({"unanchored_margin"})


@dataclass(frozen=True)
class LevelThresholds:
    """Thresholds of component finding, chain decoding and flags.

    Sizes come from the label maps of the train and val subjects of the SPIDER derivative: a whole body's height over
    its neighbours' is 0.84 to 1.09 (5th to 95th percentile of 143), discs are 4.7 to 11.1 mm high, adjoining structures
    13 to 20 mm apart. Thresholds on probabilities depend on the network; those of the flags lie between what the
    released weights and a network of two labeled subjects ask for: docs/results/segment.md has the rates of both.

    >>> LevelThresholds.from_dict({"island_mm3": 50.0}).island_mm3
    50.0

    Attributes:
        island_mm3: a component below this volume is an island, whatever the scan.
        island_share: so is one below this share of its kind's typical volume (the volume-weighted median).
        absorb_share: an island joins the structure that holds at least this share of its surface, else it is removed.
        tall_ratio: a component taller than this times its kind's typical height may hold two structures: it is taken
            apart, and two pieces whose union would be taller are never one structure.
        whole_body_mm: unless it is a vertebra no taller than this, which may be whole among compressed ones: pieces of
            it that the chain has no use for stay with the others. The tallest of 1643 whole bodies in label maps of
            training and validation has 33 mm; what weak networks let leak into its neighbour had 36 and more.
        disc_slack_mm: discs differ in height far more than bodies, so this is added to what a disc may have; two discs
            that leak into one another are a body's height apart.
        depth_ratio: pieces of one structure lie within this share of the kind's anterior-posterior depth.
        vertebra_height_mm: range that the typical height of a vertebral body is clipped to.
        disc_height_mm: range that the typical height of a disc is clipped to.
        step_mm: range that the distance between adjoining structures (body to disc) is clipped to; doubled for an
            anatomy of bodies alone, or of discs alone.
        probability_floor: smallest class probability counted, so that no structure outvotes the rest of the chain.
        full_weight_share: a component weighs 1 from this share of its kind's typical volume on, less below.
        anchor_weight: weight of a component that looks like one of the two lowest trained structures and has the view
            to prove it; these adjoin the sacrum and look unlike the others, which are told apart by counting.
        anchor_room_mm: view that must lie below the lowest trained structure (the sacrum fills it) to count from it.
        skip_penalty: cost of dropping a component of weight 1, in nats, beyond its probability of being background.
        gap_penalty: cost of each level without a component where the view would show one, in nats.
        merge_penalty: cost of taking two components for one structure, in nats.
        spacing_tolerance: difference between levels counted and distance walked that is free, in steps.
        spacing_penalty: cost of each step of difference beyond it, in nats; nearly a hard constraint.
        off_curve_mm: distance of a centroid from the fitted spine that is free.
        off_curve_penalty: cost of each further millimetre, in nats.
        ambiguous_margin: flag `level_ambiguous` below this margin (nats per structure) where the chain is anchored;
            where it is not, `unanchored` is raised whatever the margin.
        low_confidence: flag `low_confidence` for a whole structure whose mean probability of its kind is below this,
            where no chance was calibrated; slivers at the border of the view are never sure.
        partial_share: flag `partial_width` from this share of structures (by volume) that reach the first or last
            slice on.
        min_structures: flag `no_spine_found` below this number of structures.
        min_vertebrae: and below this number of vertebrae.
        height_ratio: flag `unusual_height` for a whole vertebra whose height over its neighbours' is outside this
            range; flags 4 of the 143 above, a fracture-like wedge and three bodies that the label map shows in part.
        border_voxels: a structure within this many voxels of the border of the view touches it.
    """

    island_mm3: float = 30.0
    island_share: float = 0.04
    absorb_share: float = 0.5
    tall_ratio: float = 1.45
    whole_body_mm: float = 35.0
    disc_slack_mm: float = 10.0
    depth_ratio: float = 0.75
    vertebra_height_mm: tuple[float, float] = (14.0, 45.0)
    disc_height_mm: tuple[float, float] = (4.0, 16.0)
    step_mm: tuple[float, float] = (9.0, 28.0)
    probability_floor: float = 0.01
    full_weight_share: float = 0.5
    anchor_weight: float = 3.0
    anchor_room_mm: float = 20.0
    skip_penalty: float = 3.0
    gap_penalty: float = 1.0
    merge_penalty: float = 0.2
    spacing_tolerance: float = 0.75
    spacing_penalty: float = 40.0
    off_curve_mm: float = 15.0
    off_curve_penalty: float = 0.2
    ambiguous_margin: float = 1.3
    low_confidence: float = 0.7
    partial_share: float = 0.5
    min_structures: int = 2
    min_vertebrae: int = 1
    height_ratio: tuple[float, float] = (0.7, 1.4)
    border_voxels: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value, whole = getattr(self, field.name), isinstance(field.default, int)
            if isinstance(field.default, tuple):
                expected = "two numbers that are not negative, (lower, upper) in order"
                fits = isinstance(value, tuple) and len(value) == 2 and all(map(_is_size, value))
                fits = fits and value[0] <= value[1]
            else:
                expected = f"a {'whole ' * whole}number that is not negative"
                fits = _is_size(value) and not (whole and value != int(value))
            if not fits:
                raise ValueError(f"{field.name} is {value!r}; expected {expected}, e.g. {field.default}")
        if not self.step_mm[0] > 0:
            raise ValueError(f"step_mm is {self.step_mm}; expected distances above 0, e.g. (9.0, 28.0)")
        if not 0 < self.probability_floor < 0.5:
            raise ValueError(f"probability_floor is {self.probability_floor}; expected a value in (0, 0.5), e.g. 0.01")

    @classmethod
    def from_dict(cls, changed: Mapping[str, Any]) -> LevelThresholds:
        """The defaults with some of them changed, as a plan keeps them; ``RETIRED`` ones change nothing.

        Raises:
            ValueError: a name that no threshold has, or a value that cannot be one.
        """
        changed = {name: value for name, value in changed.items() if name not in RETIRED}
        unknown = sorted(changed.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"no level threshold is called {unknown}; expected some of {list(cls().to_dict())}")
        plain: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in changed.items()}
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for the sidecar of a result."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def height_range(self, kind: str) -> tuple[float, float]:
        """Range in mm that the typical height of a kind is clipped to; unbounded for kinds but vertebra and disc."""
        return {"vertebra": self.vertebra_height_mm, "disc": self.disc_height_mm}.get(kind, (0.0, float("inf")))


def _is_size(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
