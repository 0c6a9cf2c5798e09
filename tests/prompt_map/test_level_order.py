"""The order of the levels as a prior: wrong names are mended, what is no name stays, bad input is refused."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.anatomy import MRSPINESEG, Anatomy, Structure
from cps4_monai.prompt_map import LevelOrder

CHAIN = [s.code for s in MRSPINESEG.along_spine()[1:]]  # the sacrum left out
HEIGHT_MM = 300.0
KINDS = {kind: [s.code for s in MRSPINESEG.structures if s.kind == kind] for kind in ("vertebra", "disc")}


def spine(shift: int = 0, tilt: float = 0.0, lowest: int = 0, rows: int = 150, columns: int = 60) -> torch.Tensor:
    """Label map (1, H, W): from row 130 upwards, discs of 5 and vertebrae of 14 rows, 16 columns wide."""
    y, x = torch.arange(rows).float()[:, None], torch.arange(columns).float()
    along = y + tilt * (x - 30)
    label, bottom = torch.zeros(1, rows, columns, dtype=torch.long), 130.0 + shift
    for code in CHAIN[lowest:]:
        top = bottom - (5 if code >= 11 else 14)
        inside = (along >= top) & (along < bottom) & ((x - 30).abs() < 8)
        label[0][inside] = code
        bottom = top
        if bottom < 14:
            break
    return label


def probs_of(label: torch.Tensor, certain: float = 0.9) -> torch.Tensor:
    hot = torch.nn.functional.one_hot(label, 20).movedim(-1, 1).float()
    return hot * certain + (1 - certain) / 20


def order(**options) -> LevelOrder:
    return LevelOrder(MRSPINESEG, HEIGHT_MM, unannotated=(1,), **options)


def right(out: torch.Tensor, label: torch.Tensor) -> float:
    """Share of the structures' pixels with the right name."""
    return float((out.argmax(1)[label > 0] == label[label > 0]).float().mean())


def renamed(label: torch.Tensor, shifts: dict[int, int]) -> torch.Tensor:
    """The same shapes, structures of the chain renamed by so many levels."""
    out = label.clone()
    for place, levels in shifts.items():
        out[label == CHAIN[place]] = CHAIN[place + 2 * levels]
    return out


def test_right_names_stay():
    label = spine()
    assert right(order()(probs_of(label)), label) > 0.999


@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_a_structure_called_by_its_neighbours_name_is_renamed(tilt):
    label = spine(tilt=tilt)
    wrong = renamed(label, {5: 1, 8: -1})
    assert right(probs_of(wrong), label) < 0.9
    assert right(order()(probs_of(wrong)), label) > 0.98


def test_half_a_body_takes_the_name_of_its_chain():
    label = spine()
    wrong = label.clone()
    wrong[:, :, :30] = renamed(label, {7: 1})[:, :, :30]
    assert right(order()(probs_of(wrong)), label) > 0.99


def test_two_bodies_of_one_name_are_told_apart_by_counting_from_below():
    label = spine()
    wrong = renamed(label, {place: -1 for place in range(3, 8)})  # L4 to L2 all one too low: L5 twice
    assert right(order()(probs_of(wrong)), label) > 0.97


def nameless(label: torch.Tensor) -> torch.Tensor:
    """Probabilities that tell bone, disc and background, and nothing of the level."""
    probs = probs_of(label)
    for codes in KINDS.values():
        probs[:, codes] = probs[:, codes].mean(1, keepdim=True)
    return probs


def test_without_any_name_an_anchored_chain_counts_from_below():
    label, higher = spine(), spine(lowest=4)
    assert right(order()(nameless(label)), label) > 0.98
    from_l5 = renamed(higher, {place: -2 for place in range(4, len(CHAIN))})
    assert right(order()(nameless(higher)), from_l5) > 0.98


def test_without_an_anchor_the_names_say_where_the_chain_starts():
    label = spine(lowest=4)
    assert right(order(anchored=False)(probs_of(renamed(label, {8: 1}))), label) > 0.98
    assert right(order(anchored=False)(nameless(label)), label) < 0.5


def test_kinds_and_background_keep_what_they_had():
    probs = torch.rand(2, 20, 60, 30).softmax(1)
    out = order()(probs)
    torch.testing.assert_close(out[:, :2], probs[:, :2])
    for codes in KINDS.values():
        torch.testing.assert_close(out[:, codes].sum(1), probs[:, codes].sum(1), rtol=1e-4, atol=1e-6)


def test_the_grid_of_the_maps_does_not_matter():
    label = spine()
    wrong = probs_of(renamed(label, {5: 1}))
    coarse = torch.nn.functional.adaptive_avg_pool2d(wrong, (50, 20))
    truth = torch.nn.functional.adaptive_avg_pool2d(probs_of(label), (50, 20)).argmax(1)
    assert right(order()(coarse), truth) > 0.9


def test_each_slice_by_itself_and_empty_slices_are_left_alone():
    label = torch.cat([spine(), spine(shift=8, tilt=0.2)])
    probs = torch.cat([probs_of(renamed(label, {5: 1})), torch.zeros(1, 20, 150, 60)])
    out = order()(probs)
    torch.testing.assert_close(out[1:2], order()(probs[1:2]))
    assert not out[2].any()


def test_an_annotated_sacrum_is_the_chains_lowest_structure():
    assert LevelOrder(MRSPINESEG, HEIGHT_MM).chain == (1, *CHAIN) and order().chain == tuple(CHAIN)


def test_autocast_and_inference_mode_change_nothing():
    probs = probs_of(renamed(spine(), {5: 1}))
    expected = order()(probs)
    shared = order()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(shared(probs), expected)
    torch.testing.assert_close(shared(probs), expected)


@pytest.mark.parametrize(
    "options",
    [{"sharpness": 0.0}, {"smoothing": 0.0}, {"blur_mm": -1.0}, {"kind_weight": -1.0}, {"threshold": -0.1},
     {"shortest_mm": {"vertebra": 10.0}}],
)  # fmt: skip
def test_bad_options_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        order(**options)


def test_bad_maps_and_anatomies_are_refused():
    with pytest.raises(ValueError, match=r"expected \(B, 20, H, W\)"):
        order()(torch.rand(1, 3, 8, 8))
    flat = Anatomy([Structure(0, "background", "background", "background"), Structure(1, "a", "a", "vertebra", 0)])
    with pytest.raises(ValueError, match="two structures or more"):
        LevelOrder(flat, HEIGHT_MM)
