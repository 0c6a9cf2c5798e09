"""Decoded pseudo-labels: chains are repaired over volumes, doubtful ones give no targets, batches are warped."""

from __future__ import annotations

import contextlib
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch import nn
from torch.nn import functional as F

from cps4_monai.anatomy import MRSPINESEG as SPINE
from cps4_monai.anatomy import Anatomy, Structure
from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.handlers import DecodedLabels
from cps4_monai.handlers.files import save_plain
from cps4_monai.losses.attention_prior import AttentionPrior
from cps4_monai.losses.semi_supervised import IGNORE, text_cross_entropy
from cps4_monai.methods import DecodedPseudoLabels, MeanTeacher
from cps4_monai.networks import ResUNet

corruption = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "levels" / "corruption.py")))

CPU = torch.device("cpu")
NAMES = ("L5/S", "L5", "L4/L5", "L4", "L3/L4", "L3", "L2/L3", "L2", "L1/L2", "L1")


class Reads(nn.Module):
    """A teacher whose image is its answer: the code over 32, certain or half so."""

    def __init__(self, certainty: float = 8.0) -> None:
        super().__init__()
        self.certainty, self.calls = certainty, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        codes = (images[:, 0] * 32).round().long()
        return self.certainty * F.one_hot(codes, SPINE.num_classes).movedim(-1, 1).float()


class Says:
    """A provider whose attention maps are those of a label map."""

    def __init__(self, labels: np.ndarray) -> None:
        self.maps = F.one_hot(torch.from_numpy(labels).long(), SPINE.num_classes).movedim(-1, 1).float() * 12 - 6
        self.calls = 0

    def attention_logits(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.maps[: len(images)]


def spine(bottom: int = 20) -> np.ndarray:
    """(2, 160, 64) at 2 mm: bodies of 12 x 17 pixels, discs of 4 x 16, one pixel apart."""
    labels = np.zeros((2, 160, 64), dtype=np.uint8)
    row = 160 - bottom
    for name in NAMES:
        thick, half = (4, 8) if "/" in name else (12, 9)
        labels[:, row - thick : row, 32 - half : 32 + half] = SPINE.code_of(name)
        row -= thick + 1
    return labels


def dataset(*volumes: np.ndarray, with_grid: bool = True) -> SimpleNamespace:
    images = [
        SimpleNamespace(array=(v / 32).astype(np.float16), spacing_mm=(4.0, 2.0, 2.0), view=None) for v in volumes
    ]
    return SimpleNamespace(images=images, with_grid=with_grid)


def decoded(data, teacher=None, **settings) -> DecodedLabels:
    handler = DecodedLabels(data, SPINE, unannotated=[1], **settings)
    handler.decode(teacher or Reads(), CPU, contextlib.nullcontext)
    return handler


def test_a_volume_that_lost_count_gets_the_chain_that_is_anchored_below():
    truth = spine()
    wrong = corruption.shift_levels(truth, SPINE, 7, 30, by=2)
    assert (wrong != truth).any()
    codes = decoded(dataset(truth, wrong)).codes
    assert codes is not None and codes.dtype == torch.int8 and codes.shape == (4, 160, 64)
    np.testing.assert_array_equal(codes[:2].numpy(), truth)
    np.testing.assert_array_equal(codes[2:].numpy(), truth)


def test_what_fits_nowhere_in_the_chain_has_no_target():
    truth = spine()
    strange = truth.copy()
    strange[:, 70:82, 4:14] = SPINE.code_of("L3")  # a second L3 beside the spine
    codes = decoded(dataset(strange)).codes
    assert (codes[:, 72:80, 6:12] == -1).all() and (codes[torch.from_numpy(truth) > 0] > 0).all()


def test_doubtful_volumes_have_no_targets_and_cut_ones_only_where_that_is_allowed():
    truth = spine()
    wrong = corruption.shift_levels(truth, SPINE, 0, 30, by=2)  # every level one too high, nothing says otherwise
    sure = decoded(dataset(truth), min_margin=2.0).codes
    assert (sure >= 0).all()
    assert (decoded(dataset(truth), min_margin=9.0).codes == -1).all()  # nothing is that sure: log(0.01) caps it
    assert (decoded(dataset(wrong[:, :100]), anchored_only=True).codes == -1).all()
    assert (decoded(dataset(wrong[:, :100])).codes >= 0).any()


def test_padding_below_a_scan_is_no_view_to_count_from():
    data = dataset(np.pad(spine(bottom=0), ((0, 0), (0, 60), (0, 0))))  # what is called L5/S ends where the scan does
    assert (decoded(data, anchored_only=True).codes >= 0).all(), "were all of it view, there would be room below"
    data.images[0].view = (0, 160, 0, 64)
    assert (decoded(data, anchored_only=True).codes == -1).all()


def test_thresholds_of_the_run_count_in_training_as_in_validation():
    far = {"anchor_room_mm": 1000.0}  # no scan shows that much below its lowest structure: nothing is anchored
    assert (decoded(dataset(spine()), anchored_only=True).codes >= 0).all()
    assert (decoded(dataset(spine()), anchored_only=True, thresholds=far).codes == -1).all()
    with pytest.raises(ValueError, match="anchor_rom_mm"):
        DecodedLabels(dataset(spine()), SPINE, thresholds={"anchor_rom_mm": 1.0})
    for overlay in ("cps4_plus", "mt_decoded"):
        config = json.loads((find_bundle_root() / f"configs/methods/{overlay}.json").read_text(encoding="utf-8"))
        assert config["train#decoded_labels"]["thresholds"] == "@level_thresholds"


def test_attention_maps_settle_what_the_teacher_leaves_open_and_are_asked_for_once():
    truth, spared = spine(), (SPINE.code_of("L3"), SPINE.code_of("L2"))
    teacher = Reads(certainty=0.5)  # hardly above chance
    data, provider = dataset(corruption.shift_levels(truth, SPINE, 0, 30, by=2)), Says(truth)
    prior = AttentionPrior(exponent=1.0, floor=0.01)
    handler = decoded(data, teacher, provider=provider, prior=prior)
    for code in spared:
        np.testing.assert_array_equal((handler.codes == code).numpy(), truth == code)
    handler.decode(teacher, CPU, contextlib.nullcontext)
    assert provider.calls == 1 and teacher.calls == 2


def trainer_with(
    handler: DecodedLabels, method: type = DecodedPseudoLabels, epochs: int = 4, **settings
) -> SemiSupervisedTrainer:
    student = ResUNet(1, SPINE.num_classes, features=(4, 8))
    truth = torch.from_numpy(spine()[:, None].astype(np.float32) / 32)
    grid = F.affine_grid(
        torch.tensor([[[1.0, 0, 0], [0, 1, 0.25]]]).repeat(2, 1, 1), [2, 1, 160, 64], align_corners=False
    )
    labeled = {"image": truth, "label": (truth * 32).round().to(torch.uint8)}
    unlabeled = {"image": truth, "image_strong": truth, "grid": grid, "slice_id": torch.tensor([1, 0])}
    method_ = method(student, torch.optim.SGD(student.parameters(), lr=0.01), **settings)
    loader = [{"labeled": labeled, "unlabeled": unlabeled}]
    return SemiSupervisedTrainer("cpu", epochs, loader, method_, train_handlers=[handler])


def test_targets_follow_the_geometry_of_the_augmented_slice_and_outside_it_is_background():
    truth = spine()
    handler = decoded(dataset(truth), first_epoch=99)
    trainer = trainer_with(handler, epochs=1)
    trainer.run()
    got = trainer.state.batch["unlabeled"]["decoded_map"]
    assert got.shape == (2, 1, 160, 64) and got.dtype == torch.int64
    expected = np.zeros_like(truth)  # sampled 0.25 of half the height, 20 rows, further down
    expected[:, :140] = truth[:, 20:]
    np.testing.assert_array_equal(got[:, 0].numpy(), expected)


def test_a_slice_without_targets_has_none_outside_of_its_picture_either():
    handler = decoded(dataset(spine()), first_epoch=99)
    handler.codes[1] = -1
    trainer = trainer_with(handler, epochs=1)  # its batch is slices 1 and 0, moved by 20 rows
    trainer.run()
    doubtful, sure = trainer.state.batch["unlabeled"]["decoded_map"]
    assert (doubtful == -1).all()
    assert (sure[:, 140:] == 0).all()


def test_decoding_comes_at_its_epochs_and_before_the_first_there_is_no_loss(monkeypatch):
    handler = DecodedLabels(dataset(spine()), SPINE, [1], first_epoch=2, every=2)
    at, losses = [], []
    monkeypatch.setattr(handler, "decode", lambda *_: at.append(trainer.state.epoch))
    trainer = trainer_with(handler, epochs=5)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: losses.append(float(e.state.output[0]["loss_decoded"])))
    trainer.run()
    assert at == [2, 4] and losses == [0.0] * 5  # decode() was replaced, so there never was a target


@pytest.mark.parametrize(("codes", "epochs"), [(torch.zeros(2, 160, 64, dtype=torch.int8), [3, 5, 7]), (None, [6])])
def test_a_run_that_is_made_longer_goes_on_decoding_if_it_has_begun(codes, epochs, monkeypatch):
    """Its first epoch moves with its length: targets that a checkpoint brought would stay as they are until then."""
    handler = DecodedLabels(dataset(spine()), SPINE, [1], first_epoch=6, every=2)
    handler.load_state_dict({"codes": codes, "first_epoch": 3})
    at, state = [], SimpleNamespace(epoch=0, device=CPU)
    monkeypatch.setattr(handler, "decode", lambda *_: at.append(state.epoch))
    engine = SimpleNamespace(state=state, method=SimpleNamespace(networks={"teacher": None}), autocast=None)
    for state.epoch in range(1, 8):
        handler.refresh(engine)
    assert at == epochs


def test_the_step_runs_no_teacher_and_its_loss_is_the_cross_entropy_with_the_targets():
    handler = decoded(dataset(spine()), first_epoch=99)
    trainer = trainer_with(handler, epochs=1)
    assert not trainer.method.needs_prompt_map
    batch = trainer.data_loader[0]
    trainer.state.batch, trainer.state.device = batch, CPU
    handler.add_to_batch(trainer)
    outputs = trainer.method.forward(trainer.state.batch)
    assert "teacher_logits" not in outputs
    losses = trainer.method.losses(outputs, trainer.state.batch)
    expected = text_cross_entropy(outputs["unlabeled_logits"], trainer.state.batch["unlabeled"]["decoded_map"])
    torch.testing.assert_close(losses["loss_decoded"], expected)
    with pytest.raises(ValueError, match="no decoded_map; attach DecodedLabels"):
        trainer.method.losses(outputs, batch)


def test_targets_survive_a_resume():
    handler = decoded(dataset(spine()))
    again = DecodedLabels(dataset(spine()), SPINE, [1])
    assert again.state_dict() == {"codes": None, "first_epoch": 4}
    again.load_state_dict(handler.state_dict())
    assert torch.equal(again.codes, handler.codes)


@pytest.mark.parametrize("many", [False, True], ids=["int8", "int16"])
def test_a_checkpoint_holds_the_latest_targets_compressed(many, tmp_path):
    """Label maps of thousands of slices are a gigabyte, and are written after each epoch."""
    handler = many_classes()[0] if many else decoded(dataset(spine()))
    before = handler.state_dict()
    assert handler.state_dict() is not before and handler.state_dict()["codes"] is before["codes"], "packed once"
    size = save_plain(tmp_path / "resume.pt", before).stat().st_size
    assert size < handler.codes.nbytes / 4
    again = DecodedLabels(dataset(spine()), SPINE, [1])
    again.dtype = handler.dtype
    again.load_state_dict(torch.load(tmp_path / "resume.pt", weights_only=True))
    assert torch.equal(again.codes, handler.codes) and again.codes.dtype == handler.dtype
    again.codes[0] = IGNORE  # what is loaded can be written to
    handler.decode(Codes(150) if many else Reads(), CPU, contextlib.nullcontext)
    assert handler.state_dict()["codes"] is not before["codes"], "decoded again, packed again"


def anatomy_of(classes: int, ordered: int) -> Anatomy:
    """So many classes, the last ones vertebrae in an order."""
    first = classes - ordered
    return Anatomy(
        [Structure(0, "background", "background", "background")]
        + [Structure(c, f"s{c}", f"s{c}", "other") for c in range(1, first)]
        + [Structure(c, f"v{c}", f"v{c}", "vertebra", c - first) for c in range(first, classes)]
    )


class Codes(nn.Module):
    """A teacher of so many classes: the image times 256 is its answer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        codes = (images[:, 0] * 256).round().long()
        return 8.0 * F.one_hot(codes, self.classes).movedim(-1, 1).float()


def many_classes() -> tuple[DecodedLabels, np.ndarray]:
    """A decoding of 150 classes, whose vertebrae have the codes 140 to 149, and the label map."""
    labels = np.zeros((2, 160, 64), dtype=np.uint8)
    for level in range(4):
        row = 140 - 30 * level
        labels[:, row - 20 : row, 22:42] = 140 + level
    image = SimpleNamespace(array=(labels / 256).astype(np.float32), spacing_mm=(4.0, 2.0, 2.0), view=None)
    handler = DecodedLabels(
        SimpleNamespace(images=[image], with_grid=True), anatomy_of(150, 10), first_epoch=99, min_margin=-99.0
    )
    handler.decode(Codes(150), CPU, contextlib.nullcontext)
    return handler, labels


def test_codes_above_127_are_kept_and_reach_the_batch():
    handler, labels = many_classes()
    np.testing.assert_array_equal(handler.codes.numpy(), labels)
    assert handler.codes.min() == 0 and handler.codes.max() == 143
    grid = F.affine_grid(torch.eye(2, 3).repeat(2, 1, 1), [2, 1, 160, 64], align_corners=False)
    batch = {"unlabeled": {"grid": grid, "slice_id": torch.tensor([0, 1])}}
    engine = SimpleNamespace(state=SimpleNamespace(batch=batch, device=CPU))
    handler.add_to_batch(engine)
    np.testing.assert_array_equal(engine.state.batch["unlabeled"]["decoded_map"][:, 0].numpy(), labels)


def test_targets_of_checkpoints_in_int8_still_load():
    few = decoded(dataset(spine()))
    again = DecodedLabels(dataset(spine()), SPINE, [1])
    again.load_state_dict({"codes": few.codes.to(torch.int8)})
    assert torch.equal(again.codes, few.codes)
    handler, _ = many_classes()
    old = handler.codes.clone()
    old[0, 0, 0] = -1
    handler.load_state_dict({"codes": old.to(torch.int8)})
    assert torch.equal(handler.codes, old)


def test_an_anatomy_without_levels_is_refused_before_training():
    with pytest.raises(ValueError, match=r"no labeled structure .* has an order.*Fix"):
        DecodedLabels(dataset(spine()), anatomy_of(3, 0))
    with pytest.raises(ValueError, match=r"no labeled structure .* has an order"):
        DecodedLabels(dataset(spine()), anatomy_of(3, 1), unannotated=[2])
    DecodedLabels(dataset(spine()), anatomy_of(3, 2), unannotated=[2])


def test_a_decoding_of_which_nothing_is_sure_is_warned_of(caplog):
    with caplog.at_level("INFO", logger="cps4_monai.handlers.decoded_labels"):
        decoded(dataset(spine()), min_margin=9.0)
        decoded(dataset(spine()), min_margin=2.0)
    doubtful, sure = caplog.records
    assert doubtful.levelname == "WARNING" and "of 1 volumes: the levels of none are sure" in doubtful.message
    assert sure.levelname == "INFO" and "the levels of 1 are sure enough" in sure.message


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="with_grid: true"):
        DecodedLabels(dataset(spine(), with_grid=False), SPINE)
    with pytest.raises(ValueError, match="a provider and a prior"):
        DecodedLabels(dataset(spine()), SPINE, provider=Says(spine()))
    with pytest.raises(ValueError, match="every 0"):
        DecodedLabels(dataset(spine()), SPINE, every=0)
    trainer = trainer_with(decoded(dataset(spine())), MeanTeacher)
    del trainer.data_loader[0]["unlabeled"]["grid"]
    with pytest.raises(ValueError, match=r"no \['grid'\]"):
        trainer.run()
    with pytest.raises(ValueError, match="decoded_weight is -1"):
        trainer_with(decoded(dataset(spine())), decoded_weight=-1.0)
