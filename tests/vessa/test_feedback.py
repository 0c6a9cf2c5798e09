"""What a student sees becomes prompts; what stage 1 simulates are a student's mistakes."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.vessa.feedback import KINDS, SimulatedFeedback, check_kinds, feedback_prompts, no_feedback

LABEL = torch.zeros(1, 1, 40, 20, dtype=torch.uint8)
LABEL[..., 4:12, 4:16], LABEL[..., 16:24, 4:16], LABEL[..., 28:36, 4:16] = 1, 2, 3


def simulate(mistake: int, label: torch.Tensor = LABEL, **settings) -> torch.Tensor:
    """Codes (H, W) of the picture that gets this mistake; -1 where no class is given."""
    feedback = SimulatedFeedback(4, [[1, 2, 3]], probability=1.0, **settings)
    torch.manual_seed(0)
    drawn = torch.randint(4, (64, 1, 1)).flatten()
    torch.manual_seed(0)
    masks = feedback(label.expand(64, -1, -1, -1))[int((drawn == mistake).nonzero()[0])]
    return torch.where(masks.sum(0) == 0, -1, masks.argmax(0))


def test_each_kind_has_its_turn_in_a_batch_of_any_size():
    for batch in (1, 2, 4):
        taken = torch.zeros(3)
        for _ in range(60):
            prompts = feedback_prompts(torch.ones(batch, 1, 4, 4))
            given = torch.stack([prompts.mask_given, prompts.box_given, prompts.point_given])[..., 0]
            assert (given.sum(0) == 1).all()  # one kind a picture
            taken += given.sum(1)
        assert (taken > 60 * batch / 6).all()


def test_box_point_and_seen_classes_by_hand(monkeypatch):
    monkeypatch.setattr(torch, "randint", lambda high, size, **options: torch.zeros(size, dtype=torch.int64))
    r = torch.zeros(3, 3, 10, 20)
    r[:, 1, 2:6, 5:15] = 0.9
    r[:, 2, 8, 8] = 0.4  # too weak to count
    prompts = feedback_prompts(r)
    assert [
        kind.flatten(1).any(1).tolist() for kind in (prompts.mask_given, prompts.box_given, prompts.point_given)
    ] == [[True, False, False], [False, True, False], [False, False, True]]
    assert prompts.box_given[1].tolist() == [False, True, False]
    torch.testing.assert_close(prompts.boxes[1, 1], torch.tensor([0.25, 0.2, 0.75, 0.6]))
    x, y = prompts.points[2, 1].tolist()
    assert 0.25 < x < 0.75 and 0.2 < y < 0.6
    assert not feedback_prompts(r, ("box",)).mask_given.any() and feedback_prompts(r, ("box",)).box_given[:, 1].all()


def test_nobodys_prompts_are_all_not_given():
    nobody = no_feedback(2, 3, (4, 4), torch.device("cpu"))
    zeros = feedback_prompts(torch.zeros(2, 3, 4, 4))
    for name in ("mask_given", "box_given", "point_given"):
        assert torch.equal(getattr(nobody, name), getattr(zeros, name)) and not getattr(nobody, name).any()


@pytest.mark.parametrize("wrong", [(), "mask", ("mask", "scribble")])
def test_unknown_kinds_are_refused(wrong):
    with pytest.raises(ValueError, match="feedback is"):
        check_kinds(wrong)
    assert check_kinds(list(KINDS)) == KINDS


def test_a_shift_moves_all_classes_alike_and_leaves_background_behind():
    shifted = simulate(0, shift=0.1)
    counts = shifted.flatten().bincount(minlength=4)
    assert not torch.equal(shifted, LABEL[0, 0].long()) and counts.sum() == 800
    rows = [(shifted == code).any(1).nonzero()[0, 0] for code in (1, 2, 3)]
    assert rows[1] - rows[0] == 12 and rows[2] - rows[1] == 12


def test_a_swap_exchanges_two_neighbours_and_nothing_else():
    swapped = simulate(1)
    label = LABEL[0, 0].long()
    names = {code: int(swapped[label == code].unique()) for code in range(4)}
    assert names in ({0: 0, 1: 2, 2: 1, 3: 3}, {0: 0, 1: 1, 2: 3, 3: 2})


def test_a_swap_takes_neighbours_that_the_picture_shows():
    label = LABEL.masked_fill(LABEL == 1, 0)
    for _ in range(5):
        assert set(simulate(1, label)[label[0, 0] == 2].tolist()) == {3}


def test_dilated_structures_grow_by_these_pixels():
    grown = simulate(2, dilation=2)
    assert (grown == 1)[2:14, 2:18].all() and (grown == 1).sum() == 12 * 16


def test_dropped_classes_become_background():
    dropped = simulate(3, dropped=1.0)
    assert dropped.unique().tolist() == [0]
    assert torch.equal(simulate(3, dropped=0.0), LABEL[0, 0].long())


@pytest.mark.parametrize("mistake", range(4))
def test_pixels_that_nobody_annotated_are_of_no_class(mistake):
    label = LABEL.clone()
    label[..., :2] = 255
    codes = simulate(mistake, label, shift=0.0, dilation=1)
    assert (codes[:, :2] == -1).all() and (codes[:, 6] >= 0).all()


def test_only_a_share_of_the_pictures_is_prompted():
    said = SimulatedFeedback(4, [[1, 2, 3]], probability=0.5)(LABEL.expand(400, -1, -1, -1)).flatten(1).any(1)
    assert 150 < said.sum() < 250


def test_wrong_settings_are_named():
    for wrong in ({"probability": 2.0}, {"shift": -0.1}, {"dropped": 1.5}, {"dilation": -1}, {"levels": [[1, 4]]}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SimulatedFeedback(**{"num_classes": 4, "levels": [[1, 2, 3]], **wrong})


@pytest.mark.parametrize("levels", [[[], []], [[1], []], [[1], [2]]])
def test_where_no_kind_has_two_levels_nothing_is_swapped_and_the_others_are_drawn_alike(levels):
    feedback = SimulatedFeedback(4, levels, probability=1.0, shift=0.1, dropped=1.0)
    label = LABEL.expand(300, -1, -1, -1)
    torch.manual_seed(0)
    drawn = torch.randint(3, (300,))
    torch.manual_seed(0)
    codes = feedback(label).argmax(1)
    pixels = (codes == 1).flatten(1).sum(1)
    assert drawn.bincount().min() > 70
    assert (pixels[drawn == 0] <= 96).all() and (pixels[drawn == 1] > 96).all() and (pixels[drawn == 2] == 0).all()
    shifted = codes[drawn == 0]
    rows = [(shifted == code).any(2).float().argmax(1) for code in (1, 2)]
    assert (rows[1] - rows[0] == 12).all()  # the upper one is still the upper one
