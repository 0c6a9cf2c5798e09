from __future__ import annotations

import numpy as np
import pytest
import torch

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.label_upsampling import upsampled_argmax
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.inference.network_pass import run_network
from cps4_monai.inference.restore import restore_labels
from cps4_monai.inference.view_averaging import ViewAveraging
from cps4_monai.logits import NEVER


class Blobs(torch.nn.Module):
    """Smooth scores that depend on the place and the image, background nearly everywhere."""

    def forward(self, image):
        rows = torch.linspace(-1, 1, image.shape[2])[:, None]
        columns = torch.linspace(-1, 1, image.shape[3])[None]
        scores = [torch.zeros_like(image[:, 0])]
        for code in range(1, 20):
            centre = -0.6 + 0.06 * code
            scores.append(3 - 60 * ((rows - centre) ** 2 + (columns + 0.2) ** 2) + 0.1 * image[:, 0])
        return torch.stack(scores, dim=1)


@pytest.fixture()
def slices():
    return torch.rand(5, 40, 32)


def test_crops_hold_the_scores_about_the_foreground_and_nothing_else(slices):
    scores = run_network(Blobs(), slices, batch_size=2)
    full = Blobs()(slices[:, None])
    np.testing.assert_array_equal(scores.labels, full.argmax(dim=1).numpy())
    for index, (crop, whole) in enumerate(zip(scores.crops, scores.slices(), strict=True)):
        inside = scores.labels[index] > 0
        torch.testing.assert_close(whole[:, inside], full[index][:, inside])
        assert crop.logits.shape[1] < 40 and crop.logits.shape[2] < 32


def test_slices_without_foreground_keep_no_scores(slices):
    scores = run_network(
        lambda image: torch.eye(20)[0][None, :, None, None].expand(len(image), 20, 40, 32).clone(), slices
    )
    assert scores.crops == (None,) * 5 and not scores.labels.any()
    assert all(one.shape == (20, 40, 32) for one in scores.slices())


def test_restoring_is_that_of_the_whole_scores(slices):
    """The crops change nothing against interpolating everything."""
    grid = SagittalGrid.from_affine((5, 64, 90), np.diag([4.0, -0.9, 0.8, 1.0]))
    in_plane = InPlane(spacing_mm=1.8)
    image = in_plane.image(torch.rand(5, 90, 64), grid.spacing_mm[1:])
    scores = run_network(Blobs(), image, unannotated=(1,))
    restored = restore_labels(scores, in_plane, grid, MRSPINESEG, (1,), raw=True)
    logits = Blobs()(image[:, None])
    logits[:, 1] = NEVER
    back = [axis.inverse() for axis in in_plane.axis_maps((90, 64), grid.spacing_mm[1:])]
    full = upsampled_argmax(logits, *back).numpy()
    assert restored.view is None and not (restored.slices == 1).any()
    assert np.mean(restored.slices != full) < 1e-3  # slivers of a third class between two others are gone
    assert np.mean((restored.slices > 0) != (full > 0)) == 0


def test_codes_that_were_never_trained_cannot_win(slices):
    scores = run_network(Blobs(), slices, unannotated=(1, 5))
    assert not np.isin(scores.labels, (1, 5)).any()
    assert (scores.crops[0].logits[[1, 5]] == NEVER).all()


def test_a_full_memory_halves_the_batch(slices):
    sizes = []

    def network(image):
        sizes.append(len(image))
        if len(image) > 2:
            raise torch.OutOfMemoryError("no room")
        return Blobs()(image)

    expected = run_network(Blobs(), slices)
    np.testing.assert_array_equal(run_network(network, slices, batch_size=8).labels, expected.labels)
    assert sizes == [5, 2, 2, 1]

    def never(image):
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(RuntimeError, match="does not hold one slice"):
        run_network(never, slices)


def test_damaged_weights_and_other_networks_are_told(slices):
    with pytest.raises(ValueError, match="not finite"):
        run_network(lambda image: Blobs()(image) * float("nan"), slices)
    with pytest.raises(ValueError, match="same height and width"):
        run_network(lambda image: Blobs()(image)[..., ::2], slices)


def test_test_time_augmentation_keeps_the_answer_of_a_network_that_sees_no_contrast(slices):
    network = Blobs()
    image = torch.zeros(2, 1, 40, 32)
    mean = ViewAveraging(network)(image)
    torch.testing.assert_close(mean.exp().sum(dim=1), torch.ones(2, 40, 32), atol=1e-4, rtol=0)
    assert (mean.argmax(dim=1) != network(image).argmax(dim=1)).float().mean() < 0.02
