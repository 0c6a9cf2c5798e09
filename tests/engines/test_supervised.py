"""The trainer of pretraining scales gradients where the precision needs it, on every device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cps4_monai.engines import PrecisionTrainer
from cps4_monai.inference.precision_inferer import PrecisionInferer
from cps4_monai.precision import Precision


def trained(precision: Precision) -> tuple[PrecisionTrainer, list[torch.dtype]]:
    torch.manual_seed(0)
    network, seen = nn.Conv2d(1, 2, 1), []
    network.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    batches = [{"image": torch.rand(2, 1, 4, 4), "label": torch.rand(2, 2, 4, 4)} for _ in range(2)]
    trainer = PrecisionTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=batches,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=10.0),
        loss_function=lambda pred, label: nn.functional.mse_loss(pred, label) / 100,  # float16 holds the first scale
        inferer=PrecisionInferer(precision),
        precision=precision,
        decollate=False,
    )
    trainer.run()
    return trainer, seen


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_a_reduced_type_trains_as_float32_does(name):
    exact, plain = trained(Precision())
    reduced, seen = trained(Precision("cpu", True, name))
    assert set(plain) == {torch.float32} and set(seen) == {getattr(torch, name)}
    torch.testing.assert_close(reduced.network.weight, exact.network.weight, atol=1e-2, rtol=2e-2)
    assert reduced.state.output["loss"].dtype == torch.float32


def test_only_float16_keeps_a_scaler_through_the_run():
    assert trained(Precision("cpu", True, "float16"))[0].scaler.state_dict()["scale"] > 1
    assert trained(Precision("cpu", True, "bfloat16"))[0].scaler is None
    assert trained(Precision())[0].scaler is None
