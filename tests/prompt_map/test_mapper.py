"""The prompt map: eq. 3 and its options, against a plain reference and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.filters import threshold_otsu
from torch.utils._python_dispatch import TorchDispatchMode

from cps4_monai.prompt_map import PromptMapper

FORBIDDEN = {"_local_scalar_dense", "nonzero", "masked_select", "bincount", "histc", "unique2", "is_nonzero"}


class RecordOps(TorchDispatchMode):
    """Names of all operations that run below."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def blobs(batch: int = 2, classes: int = 5) -> torch.Tensor:
    return 6 * F.avg_pool2d(torch.randn(batch, classes, 8, 4), 3, 1, 1) - 1


def reference(scores: torch.Tensor) -> np.ndarray:
    maps = scores.double().numpy()
    thresholds = np.array([[threshold_otsu(one) for one in sample] for sample in maps])
    held = np.where(maps > thresholds[..., None, None], maps, -np.inf)
    return np.where(held.max(1) > -np.inf, held.argmax(1), 0)[:, None]


@pytest.mark.parametrize("of", ["sigmoid", "similarity"])
def test_equals_a_loop_over_scikit_image(of):
    logits = blobs()
    coarse = torch.sigmoid(logits) if of == "sigmoid" else logits
    scores = F.interpolate(coarse.double(), size=(64, 32), mode="bilinear", align_corners=False)
    result = PromptMapper(of=of)(logits.double(), (64, 32))
    assert result.shape == (2, 1, 64, 32)
    assert result.dtype == torch.int64
    np.testing.assert_array_equal(result.numpy(), reference(scores))


def test_otsu_of_the_similarity_does_not_depend_on_w_and_b():
    cosines = blobs().double() / 10
    mapper = PromptMapper(of="similarity")
    assert torch.equal(mapper(cosines, (64, 32)), mapper(8 * cosines - 2, (64, 32)))


def test_two_blocks_come_out_where_they_lie():
    logits = torch.full((1, 3, 4, 4), -6.0)
    logits[0, 1, :2, :2] = 6
    logits[0, 2, 2:, 2:] = 6
    label = PromptMapper(upsampling="nearest")(logits, (8, 8))[0, 0]
    expected = torch.zeros(8, 8, dtype=torch.int64)
    expected[:4, :4], expected[4:, 4:] = 1, 2
    assert torch.equal(label, expected)  # the background's map is constant: empty, and none is background


def test_presence_gate_drops_weak_structures_but_never_the_background():
    logits = torch.full((1, 3, 4, 4), -6.0)
    logits[0, 0, :, 2:] = -5  # background, weak as well
    logits[0, 1, :2, :2] = -3
    logits[0, 2, 2:, :2] = 3
    size = (4, 4)
    assert PromptMapper()(logits, size).unique().tolist() == [0, 1, 2]
    gated = PromptMapper(presence_threshold=0.5, stacking="ignore_empty")(logits, size)[0, 0]
    assert gated.unique().tolist() == [-1, 0, 2]
    assert (gated[:, 2:] == 0).all()


def test_presence_gate_off_equals_a_threshold_of_zero():
    logits = blobs()
    assert torch.equal(PromptMapper()(logits, (32, 16)), PromptMapper(presence_threshold=0.0)(logits, (32, 16)))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("left_out", [(1,), (1, 3), (4,)])
def test_unannotated_classes_never_appear_and_do_not_touch_the_others(activation, left_out):
    logits = blobs()
    kept = [c for c in range(5) if c not in left_out]
    mapper = PromptMapper(activation=activation, unannotated=left_out)
    expected = torch.tensor(kept)[PromptMapper(activation=activation)(logits[:, kept], (32, 16))]
    assert torch.equal(mapper(logits, (32, 16)), expected)


@pytest.mark.parametrize("stacking", ["masked_argmax", "ignore_empty", "argmax"])
def test_constant_maps_are_empty_and_finite(stacking):
    label = PromptMapper(stacking=stacking)(torch.zeros(2, 4, 3, 3), (6, 6))
    allowed = {"masked_argmax": {0}, "ignore_empty": {-1}, "argmax": {0, 1, 2, 3}}[stacking]
    assert set(label.unique().tolist()) <= allowed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_map_of_the_same_values_in_float32(dtype):
    logits = blobs().to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(PromptMapper()(logits, (64, 32)), PromptMapper()(logits.float(), (64, 32)))


def test_logits_that_are_not_finite_do_not_crash():
    logits = blobs()
    logits[0, 2, 0, 0] = float("nan")
    label = PromptMapper()(logits, (16, 8))
    assert 2 not in label[0].unique()


def test_identity_grid_equals_plain_upsampling():
    logits = blobs()
    theta = torch.eye(2, 3).expand(2, 2, 3)
    grid = F.affine_grid(theta, [2, 1, 64, 32], align_corners=False)
    assert (PromptMapper()(logits, (64, 32), grid) == PromptMapper()(logits, (64, 32))).double().mean() > 0.999


def test_grid_moves_the_map_with_the_image():
    logits = blobs()
    grid = F.affine_grid(torch.eye(2, 3).expand(2, 2, 3), [2, 1, 64, 32], align_corners=False).flip(2)
    flipped = PromptMapper()(logits, (64, 32), grid)
    assert (flipped == PromptMapper()(logits, (64, 32)).flip(3)).double().mean() > 0.999


@pytest.mark.parametrize("of", ["sigmoid", "similarity"])
def test_a_structure_that_a_grid_takes_out_of_view_is_not_present(of):
    """As a model would say that is asked about the moved slice; one that stays in view is kept."""
    logits = torch.full((1, 3, 8, 4), -6.0)
    logits[0, 0], logits[0, 1, 0], logits[0, 2, 5, 1:3] = 0.0, 6.0, 6.0  # class 1 at the top, class 2 further down
    mapper = PromptMapper(presence_threshold=0.5, of=of)
    grid = F.affine_grid(torch.eye(2, 3)[None], [1, 1, 64, 32], align_corners=False)
    assert mapper(logits, (64, 32), grid).unique().tolist() == [0, 1, 2]
    grid[..., 1] += 16 / 32  # 16 pixels up: the upper quarter is gone, the lower one comes from outside
    assert mapper(logits, (64, 32), grid).unique().tolist() == [0, 2]


def test_gpu_path_never_asks_the_host(monkeypatch):
    from cps4_monai.prompt_map import otsu

    monkeypatch.setattr(otsu, "_count_map_by_map", otsu._count_at_once)
    with RecordOps() as record:
        PromptMapper(presence_threshold=0.3, unannotated=(1,))(blobs(), (32, 16))
    assert "scatter_add_" in record.names
    assert not record.names & FORBIDDEN


def test_gpu_equals_cpu_without_synchronising():
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    mapper, logits = PromptMapper(presence_threshold=0.3, unannotated=(1,)), blobs(4, 20)
    on_gpu = logits.cuda()
    mapper(on_gpu, (256, 128))
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = mapper(on_gpu, (256, 128))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (result.cpu() == mapper(logits, (256, 128))).double().mean() > 0.999


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "tanh"},
        {"stacking": "sum"},
        {"of": "cosine"},
        {"upsampling": "linear"},
        {"presence_threshold": 1.5},
        {"unannotated": (0,)},
        {"bins": 1},
    ],
)
def test_unknown_options_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PromptMapper(**options)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"expected \(B, C, h, w\)"):
        PromptMapper()(torch.rand(3, 4, 4), (8, 8))
    with pytest.raises(ValueError, match=r"grid is \(2, 8, 8, 2\)"):
        PromptMapper()(blobs(), (16, 8), torch.zeros(2, 8, 8, 2))
