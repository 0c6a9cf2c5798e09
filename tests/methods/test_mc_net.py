"""MC-Net by its card: sharpening and squared errors by hand, who gets gradients from where, what is deployed."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.methods import MCNet
from cps4_monai.methods.mc_net import mutual_error, sharpen
from cps4_monai.networks import MutualDecoders, ResUNet

NAMES = ("first", "second", "third")


def make(**settings) -> MCNet:
    torch.manual_seed(0)
    network = MutualDecoders(ResUNet(1, 4, features=(4, 8, 8)))
    method = MCNet(network, torch.optim.SGD(network.parameters(), lr=0.1), **{"ramp_share": 0.0, **settings})
    method.total_updates = 2
    return method


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(4, 1, 14, 12, generator=generator)  # 14 is no multiple of 4: padded and cropped
    label = torch.randint(0, 4, (2, 1, 14, 12), generator=generator).to(torch.uint8)
    return {"labeled": {"image": image[:2], "label": label}, "unlabeled": {"image": image[2:]}}


def test_binary_sharpening_by_hand_and_what_it_says_of_three_near_classes():
    given = torch.tensor([0.40, 0.45, 0.50, 0.55, 0.60]).view(1, 5, 1, 1)
    expected = torch.tensor([0.0170, 0.1185, 0.5, 0.8815, 0.9830])
    torch.testing.assert_close(sharpen(given, 0.1).flatten(), expected, atol=5e-5, rtol=0)
    near = torch.tensor([0.4, 0.3, 0.3]).view(1, 3, 1, 1)
    binary, softmax = sharpen(near, 0.1, "binary").flatten(), sharpen(near, 0.1, "softmax").flatten()
    assert binary.max() < 0.02  # of no class
    torch.testing.assert_close(softmax, torch.tensor([0.899, 0.051, 0.051]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("sharpening", ["binary", "softmax"])
def test_the_least_temperatures_leave_numbers(sharpening):
    even = torch.full((1, 20, 1, 1), 0.05)
    for temperature in (0.02, 0.005):
        assert torch.isfinite(sharpen(even, temperature, sharpening)).all()
        assert torch.isfinite(sharpen(torch.tensor([0.5, 0.5]).view(1, 2, 1, 1), temperature, sharpening)).all()


def test_squared_errors_of_six_pairs_by_hand_and_none_where_predictions_are_sure():
    probs = [torch.tensor([0.6, 0.4]).view(1, 2, 1, 1)] * 3
    counts = torch.ones(1, 1, 1, dtype=torch.bool)
    error = mutual_error(probs, [sharpen(p, 0.1) for p in probs], counts) / 2  # mean over two classes
    assert error.item() == pytest.approx(0.8799, abs=1e-4)
    sure = [torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)] * 3
    assert mutual_error(sure, [sharpen(p, 0.1) for p in sure], counts) == 0
    assert mutual_error(probs, sure, ~counts) == 0


def test_without_weight_the_other_decoders_learn_from_labeled_slices_only(batch):
    method = make(consistency_weight=0.0)

    def gradients(batch):
        method.networks["student"].zero_grad()
        method.losses(method.forward(batch), batch)["loss"].backward()
        return [p.grad.clone() for p in method.networks["student"].others.parameters()]

    ours = gradients(batch)
    others = gradients({**batch, "unlabeled": {"image": batch["unlabeled"]["image"].flip(2)}})
    relabeled = gradients({**batch, "labeled": {**batch["labeled"], "label": 3 - batch["labeled"]["label"]}})
    assert all(torch.equal(a, b) for a, b in zip(ours, others, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(ours, relabeled, strict=True))


@pytest.mark.parametrize("detached", [True, False])
def test_a_sharpened_prediction_gets_a_gradient_only_where_targets_are_not_detached(batch, detached):
    """Decoder 2 is a target of decoders 1 and 3; with these two fixed, only its own error is left."""
    method = make(detach_targets=detached, supervision="ce")
    outputs = {name: logits.detach() for name, logits in method.forward(batch).items()}
    second = outputs["second_unlabeled_logits"].clone().requires_grad_()
    (whole,) = torch.autograd.grad(
        method.losses({**outputs, "second_unlabeled_logits": second}, batch)["loss_consistency"], second
    )
    probs = {n: torch.cat((outputs[f"{n}_labeled_logits"], outputs[f"{n}_unlabeled_logits"])) for n in NAMES}
    targets = [sharpen(probs[n].softmax(1), 0.1) for n in ("first", "third")]
    own = second.softmax(1)
    error = sum((own - t[2:]).square().sum(1).sum() for t in targets) / (4 * 4 * 14 * 12)
    (alone,) = torch.autograd.grad(error, second)
    assert torch.allclose(whole, alone, atol=1e-8) is detached


def test_options_of_the_scale_by_hand(batch):
    outputs = make().forward(batch)
    plain = make().losses(outputs, batch)
    by_classes = make(squared_error_classes=None, unannotated=()).losses(outputs, batch)
    torch.testing.assert_close(plain["loss_consistency"], by_classes["loss_consistency"])  # 4 classes here, too
    two = make(squared_error_classes=2.0).losses(outputs, batch)
    torch.testing.assert_close(two["loss_consistency"], 2 * plain["loss_consistency"])
    annotated = {"unannotated": (2,)}
    by_three, mean = (
        make(squared_error_classes=c, **annotated).losses(outputs, batch)["loss_consistency"] for c in (3.0, None)
    )
    torch.testing.assert_close(mean, by_three)
    summed = make(sum_decoders=True).losses(outputs, batch)
    torch.testing.assert_close(summed["loss_supervised"], 3 * plain["loss_supervised"])


def test_the_deployed_network_is_a_plain_one_with_the_logits_of_the_first_decoder(batch):
    method = make()
    network = method.networks["student"].eval()
    plain = ResUNet(1, 4, features=(4, 8, 8)).eval()
    plain.load_state_dict(method.deployed.state_dict(), strict=True)
    image = batch["labeled"]["image"]
    first, second, third = network(image, all_decoders=True)
    assert torch.equal(first, plain(image)) and torch.equal(first, network(image))
    assert first.shape == second.shape == third.shape and not torch.equal(second, third)


def test_convolving_before_upsampling_gives_what_convolving_after_it_gives():
    torch.manual_seed(0)
    network = MutualDecoders(ResUNet(1, 4, features=(4, 8, 8)))
    for other in network.others:
        up, coarse = other.decoder[0].up, torch.rand(2, 8, 5, 4)
        torch.testing.assert_close(up(coarse), up.conv(up.upsample(coarse)))
        assert not any(isinstance(m, torch.nn.ConvTranspose2d) for m in other.modules())


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"temperature within \(0, 1\]"):
        make(temperature=0.0)
    with pytest.raises(ValueError, match="sharpening is 'hard'"):
        make(sharpening="hard")
    plain = ResUNet(1, 4, features=(4, 8))
    with pytest.raises(TypeError, match=r"expected cps4_monai\.networks\.MutualDecoders"):
        MCNet(plain, torch.optim.SGD(plain.parameters(), lr=0.1))
