"""SS-Net by its card: the perturbation, the contrast by hand, what is remembered, statistics and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cps4_monai.losses.dice import soft_dice_distance
from cps4_monai.methods import SSNet
from cps4_monai.methods.ss_net import _of_size, adversarial_perturbation, class_contrast
from cps4_monai.networks import ClassMemory, ResUNet
from cps4_monai.networks.class_memory import draw_pixels

CLASSES = 4


def make(size: int = 8, **settings) -> SSNet:
    torch.manual_seed(0)
    network = ClassMemory(ResUNet(1, CLASSES, features=(4, 8)), size=size)
    with torch.no_grad():
        network.backbone.head.weight.mul_(20)  # so that pixels are called by several names
    method = SSNet(network, torch.optim.SGD(network.parameters(), lr=0.1), **{"ramp_share": 0.0, **settings})
    method.total_updates = 2
    return method


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(4, 1, 16, 12, generator=generator)
    label = torch.randint(0, CLASSES, (2, 1, 16, 12), generator=generator).to(torch.uint8)
    return {"labeled": {"image": image[:2], "label": label}, "unlabeled": {"image": image[2:]}}


def test_the_perturbation_has_its_length_and_does_more_than_a_random_one():
    torch.manual_seed(0)
    network, images = nn.Conv2d(1, CLASSES, 5, padding=2), torch.rand(3, 1, 16, 12)
    clean = network(images).softmax(1).detach()

    def distance(logits):
        return soft_dice_distance(logits.softmax(1), clean)

    adversarial, random = [], []
    for _ in range(20):
        change = adversarial_perturbation(network, images, distance, rms=0.1, probe_rms=0.05)
        lengths = change.flatten(1).norm(dim=1)
        torch.testing.assert_close(lengths, torch.full((3,), 0.1 * (16 * 12) ** 0.5), atol=1e-5, rtol=0)
        other = torch.randn_like(change)
        other *= (lengths / other.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
        adversarial.append(distance(network(images + change)).item())
        random.append(distance(network(images + other)).item())
    assert sum(adversarial) > 1.5 * sum(random)


def test_a_change_has_its_size_however_small_it_was_and_none_stays_none():
    for size in (1.0, 1e-22, 1e-28, 1e-37):
        change = size * torch.randn(2, 1, 16, 16)
        change[1] = 0
        scaled = _of_size(change, 0.02)
        assert scaled[0].square().mean().sqrt().item() == pytest.approx(0.02, rel=1e-3)
        assert not scaled[1].any()


def test_contrast_by_hand_with_weights_of_one_and_with_others():
    memory, one = torch.tensor([[[1.0, 0.0]]]), torch.ones(1, 1)
    yes = one > 0
    for feature, expected in (([3.0, 0.0], 0.0), ([0.0, 2.0], 1.0), ([-1.0, 0.0], 2.0)):
        features = torch.tensor([[feature]])
        assert class_contrast(features, yes, one, memory, yes, one).item() == pytest.approx(expected)
    both = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])  # weights .3 and .1 are scaled to 1.5 and .5
    weights = torch.tensor([[0.3, 0.1]])
    assert class_contrast(both, weights > 0, weights, memory, yes, one).item() == pytest.approx(2 * 0.5 / 2)


def test_a_class_without_memory_or_without_pixels_is_not_counted():
    features, memory = torch.tensor([[[0.0, 1.0]]] * 3), torch.tensor([[[1.0, 0.0]]] * 3)
    drawn, filled = torch.tensor([[True], [True], [False]]), torch.tensor([[True], [False], [True]])
    ones = torch.ones(3, 1)
    assert class_contrast(features, drawn, ones, memory, filled, ones).item() == pytest.approx(1.0)
    assert class_contrast(features, drawn, ones, memory, ~filled & drawn & False, ones) == 0


class Known(nn.Module):
    """Selectors whose weight is the first number of a feature."""

    def forward(self, features):
        return features[..., 0]


@pytest.mark.parametrize(("best", "expected"), [(True, [0.9, 0.8, 0.7]), (False, [0.1, 0.2, 0.3])])
def test_a_memory_of_three_holds_the_three_of_largest_weight_or_of_smallest(best, expected):
    network = ClassMemory(ResUNet(1, 2, features=(4, 8)), dimension=2, size=3)
    network.memory_selectors = Known()
    scores = torch.tensor([0.4, 0.9, 0.1, 0.7, 0.2, 0.8, 0.3, 0.5, 0.6, 0.99])
    features = torch.stack((scores, torch.zeros(10)), dim=1).expand(2, -1, -1)
    valid = torch.ones(2, 10, dtype=torch.bool)
    valid[:, 9] = False  # of another class: is never remembered
    valid[1] = False
    network.remember(features, valid, best=best)
    torch.testing.assert_close(network.memory[0, :, 0], torch.tensor(expected))
    assert network.filled.tolist() == [[1, 1, 1], [0, 0, 0]]


def test_what_is_remembered_stays_while_its_class_is_not_seen_or_is_forgotten():
    network = ClassMemory(ResUNet(1, 1, features=(4, 8)), dimension=2, size=3)
    network.memory_selectors = Known()
    features, valid = torch.tensor([[[0.1, 0.0], [0.2, 0.0]]]), torch.ones(1, 2, dtype=torch.bool)
    network.remember(features, valid)
    network.remember(features + 0.5, valid & torch.tensor([True, False]))
    torch.testing.assert_close(network.memory[0, :, 0], torch.tensor([0.6, 0.2, 0.1]))  # the new one, then the old
    network.remember(features, ~valid)
    torch.testing.assert_close(network.memory[0, :, 0], torch.tensor([0.6, 0.2, 0.1]))
    network.remember(features, ~valid, keep=False)
    assert network.filled.sum() == 0


def test_pixels_are_drawn_of_their_class_only_each_at_most_once_and_all_get_their_turn():
    codes = torch.tensor([[0, 2, 2, -1, 0, 2, 0, 2], [1, 1, 1, 1, -1, -1, -1, -1]])
    seen = set()
    for _ in range(40):
        place, drawn = draw_pixels(codes, 3, 3)
        assert drawn.sum(dim=2).tolist() == [[3, 0, 3], [0, 3, 0]]
        for group in range(2):
            for code in range(3):
                chosen = place[group, code][drawn[group, code]].tolist()
                assert len(set(chosen)) == len(chosen) and all(codes[group, p] == code for p in chosen)
                seen |= {(group, p) for p in chosen}
    assert seen == {(g, p) for g in range(2) for p in range(8) if codes[g, p] >= 0}


def test_pixels_that_stand_in_for_missing_ones_are_annotated():
    """They enter the batch norm of the heads, as of other classes."""
    codes = torch.tensor([[-1, -1, 0, 2, -1, 2], [-1, 1, -1, -1, 1, -1]])
    place, _ = draw_pixels(codes, 4, 3)
    assert (codes.gather(1, place.flatten(1)) >= 0).all()


def test_a_class_of_two_pixels_stands_in_for_itself_an_absent_one_is_spread_over_all():
    codes = torch.tensor([[0] * 60 + [1] * 2 + [2] * 38])
    place, drawn = draw_pixels(codes, 4, 20)
    names = codes[0][place[0]]
    assert (names[:3] == torch.arange(3)[:, None]).all() and drawn.sum(dim=2).tolist() == [[20, 2, 20, 0]]
    assert torch.bincount(place[0, 1]).max() == 10, "each of the two as often as the other"
    counts = torch.bincount(names[3], minlength=3)
    assert (counts - torch.tensor([12, 0.4, 7.6])).abs().max() <= 1


@pytest.mark.parametrize("batch_statistics", ["separate", "joint"])
def test_only_labeled_pixels_that_are_called_right_are_remembered(batch, batch_statistics):
    method = make(background=True, batch_statistics=batch_statistics)
    with torch.no_grad():
        method.student.head.weight.zero_()
        method.student.head.bias.copy_(torch.tensor([0.0, 0.0, 5.0, 0.0]))  # all pixels are called 2
    outputs = method.forward(batch)
    assert method.memory.filled.any(1).tolist() == [False, False, True, False]
    assert outputs["labeled_drawn"].any(1).all(), "the label names the features of labeled slices, right or wrong"
    assert outputs["unlabeled_drawn"].any(1).tolist() == [False, False, True, False]


def test_projected_features_are_remembered_and_predicted_ones_are_compared_with_them(batch):
    method = make(background=True)
    with torch.no_grad():
        for p in method.memory.prediction[-1].parameters():
            p.zero_()
    outputs = method.forward(batch)
    assert outputs["labeled_features"].abs().sum() == outputs["unlabeled_features"].abs().sum() == 0
    assert (method.memory.memory.abs().sum(2) > 0).equal(method.memory.filled > 0) and method.memory.filled.any()


def test_every_selector_gets_a_gradient_and_the_backbone_too(batch):
    method = make(background=True, supervision="ce", batch_statistics="joint")
    for _ in range(2):  # the memory fills
        outputs = method.forward(batch)
    assert (method.memory.filled > 0).all()
    method.losses(outputs, batch)["loss_separation"].backward()
    for selectors in (method.memory.feature_selectors, method.memory.memory_selectors):
        first, last = selectors.layers[0].weight.grad, selectors.layers[2].weight.grad
        assert (first.view(CLASSES, -1).abs().sum(1) > 0).all() and (last.view(CLASSES, -1).abs().sum(1) > 0).all()
    assert method.student.encoder[0].conv1.conv.weight.grad.abs().sum() > 0


def test_with_the_authors_memory_its_selectors_learn_nothing(batch):
    method = make(weigh_memory=False, memory_order="worst", keep_memory=False)
    method.losses(method.forward(batch), batch)["loss"].backward()
    assert all(p.grad.abs().sum() == 0 for p in method.memory.memory_selectors.parameters())
    assert any(p.grad.abs().sum() > 0 for p in method.memory.feature_selectors.parameters())


@pytest.mark.parametrize("batch_statistics", ["separate", "joint"])
def test_passes_on_perturbed_pictures_leave_the_running_statistics(batch, batch_statistics):
    """A copy that only sees the pictures as they are ends with the same statistics."""
    method, other = make(batch_statistics=batch_statistics), make()
    method.train()
    method.forward(batch)
    other.train()
    pictures = [batch[half]["image"] for half in ("labeled", "unlabeled")]
    with torch.no_grad():
        for image in pictures if batch_statistics == "separate" else [torch.cat(pictures)]:
            other.student(image)
    ours, theirs = (dict(m.student.named_buffers()) for m in (method, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_perturbation_is_sought_from_the_prediction_of_the_same_slices(batch, monkeypatch):
    method, seen = make(), []

    def spied(network, images, distance, rms, probe_rms):
        logits = network(images)
        seen.append((len(images), distance(logits).item(), distance(logits.flip(0)).item(), rms, probe_rms))
        return torch.zeros_like(images)

    monkeypatch.setattr("cps4_monai.methods.ss_net.adversarial_perturbation", spied)
    method.networks["student"].eval()
    method.forward(batch)
    assert [(count, *sizes) for count, _, _, *sizes in seen] == [(2, 6 / 256, 10 / 256)] * 2
    assert all(same < 1e-5 < other for _, same, other, *_ in seen)


def test_the_separation_is_that_of_labeled_and_of_unlabeled_slices_together(batch):
    method = make()
    outputs = method.forward(batch)
    network = method.memory
    remembered = network.memory.detach(), network.filled > 0, network.memory_selectors(network.memory)
    terms = [
        class_contrast(f, outputs[f"{kind}_drawn"], network.feature_selectors(f), *remembered)
        for kind in ("labeled", "unlabeled")
        for f in [outputs[f"{kind}_features"]]
    ]
    assert min(terms) > 0
    torch.testing.assert_close(method.losses(outputs, batch)["loss_separation"], sum(terms))


def test_both_ways_of_batch_statistics_draw_alike_from_one_network(batch):
    """In evaluation mode BatchNorm sees no batch: one pass or two give the same features and the same drawn pixels."""
    outputs = []
    for kind in ("separate", "joint"):
        method = make(batch_statistics=kind, pixels_per_class=200)
        method.networks["student"].eval()
        outputs.append(method.forward(batch))
    for name in ("labeled_logits", "unlabeled_logits"):
        torch.testing.assert_close(outputs[0][name], outputs[1][name])
    for name in ("labeled_drawn", "unlabeled_drawn"):
        assert torch.equal(outputs[0][name].sum(1), outputs[1][name].sum(1)) and not outputs[0][name][0].any()


def test_the_memory_is_saved_with_the_run(batch, tmp_path):
    method = make()
    method.forward(batch)
    torch.save(method.state_dict(), tmp_path / "state.pt")
    again = make()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.memory.filled.sum() > 0 and torch.equal(again.memory.memory, method.memory.memory)
    assert not any("memory" in name for name in method.deployed.state_dict())


def test_distance_of_two_softmaxes_by_hand():
    p = torch.tensor([[0.8, 0.2]]).view(1, 2, 1, 1)
    q = torch.tensor([[0.5, 0.5]]).view(1, 2, 1, 1)
    assert soft_dice_distance(p, p).item() == pytest.approx(0, abs=1e-6)
    # the reference p calls class 0 alone: 1 - 2 * .8 * .5 / (.64 + .25)
    assert soft_dice_distance(q, p).item() == pytest.approx(1 - 0.8 / 0.89, abs=1e-4)
    assert soft_dice_distance(q, p, torch.zeros(1, 1, 1, 1, dtype=torch.bool)) == 0


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="memory_order is 'last'"):
        make(memory_order="last")
    with pytest.raises(ValueError, match="at least 1 pixel"):
        make(pixels_per_class=0)
    plain = ResUNet(1, 4, features=(4, 8))
    with pytest.raises(TypeError, match=r"expected cps4_monai\.networks\.ClassMemory"):
        SSNet(plain, torch.optim.SGD(plain.parameters(), lr=0.1))
