"""What holds for every method: parts, the supervised limit, resuming, deployment, ignored pixels, waits, options."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from host_reads import HostReads
from torch import nn

from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.known_settings import arguments_of
from cps4_monai.losses.grid_text import GridTextLoss
from cps4_monai.losses.semi_supervised import supervised_cross_entropy
from cps4_monai.method_list import list_methods
from cps4_monai.methods import (
    BCP,
    CPS4,
    UCMT,
    VESSA,
    CPS4Levers,
    DecodedPseudoLabels,
    DecodedUCMT,
    DuSSS,
    GraphCL,
    MCNet,
    MeanTeacher,
    SemiSupervisedMethod,
    SSNet,
    Supervised,
    TeacherStudent,
    UniMatchV2,
)
from cps4_monai.networks import (
    ClassMemory,
    GraphBranch,
    MaskedFeatures,
    MutualDecoders,
    ResUNet,
    StudentPair,
    TextGuided,
    deployable,
)
from cps4_monai.precision import Precision

CLASSES, SIZE, BATCHES = 4, 16, 4


def of_labels(student: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """What a supervised run minimises."""
    return supervised_cross_entropy(deployable(student)(batch["labeled"]["image"]), batch["labeled"]["label"])


def of_the_second_half(student: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """With an empty rectangle, the second half of the labeled slices stands alone."""
    return of_labels(student, {"labeled": {key: value[2:] for key, value in batch["labeled"].items()}})


def of_three_decoders(student: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """The encoder is shared: the supervised limit is the mean over the three decoders."""
    logits = student(batch["labeled"]["image"], all_decoders=True)
    return torch.stack([supervised_cross_entropy(x, batch["labeled"]["label"]) for x in logits]).mean()


@dataclass(frozen=True)
class Case:
    """A method, how it is made here, and what its options and weights are called."""

    cls: type[SemiSupervisedMethod]
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network
    settings: dict[str, Any] = field(default_factory=dict)
    no_unlabeled: dict[str, Any] = field(default_factory=dict)  # settings with which only labels count
    limit: Callable[[nn.Module, dict[str, Any]], torch.Tensor] = of_labels  # what is minimised then
    supervised_share: float = 1.0  # of L_sup in the total
    weights: dict[str, float] = field(default_factory=dict)  # part -> its factor, at ramp 1
    options: tuple[dict[str, Any], ...] = ()  # each varied alone

    def make(self, momentum: float = 0.0, **more: Any) -> SemiSupervisedMethod:
        torch.manual_seed(0)
        plain = ResUNet(1, CLASSES, features=(4, 8))
        with torch.no_grad():
            plain.head.weight.mul_(20)  # an untrained network calls all pixels by one name; this one differs
            for layer in plain.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.momentum = 1.0  # statistics of the last batch: evaluation mode sees what training sees
            plain.train()(torch.rand(8, 1, SIZE, SIZE))
        network = self.wrap(plain)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=momentum)
        method = self.cls(network, optimizer, **{**self.settings, **more})  # type: ignore[call-arg]
        method.total_updates = BATCHES * method.steps_per_batch
        return method


class FrozenVision:
    """Stands for the image side of stage 1: tokens (B, 6, 4, 4) and logits of four classes."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.randn(6, 16, generator=generator)
        self.embeddings = torch.randn(CLASSES, 6, generator=generator)

    def project(self, image: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ek,bkhw->behw", self.weight, nn.functional.pixel_unshuffle(image, 4))

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ce,behw->bchw", self.embeddings, tokens)


VISION = FrozenVision()
TEACHER = ({"ema_decay": 0.0}, {"batch_statistics": "joint"})
EMPTY = {"pretrain_fraction": 0.0, "patch_ratio": 0.0, "unlabeled_weight": 0.0, "dice_weight": 0.0}
MIXED = (
    {"pretrain_fraction": 0.25},
    {"patch_ratio": 0.5},
    {"unlabeled_weight": 1.0},
    {"dice_weight": 0.0},
    {"largest_component": True},
    {"training_teacher": True},
    {"full_width": True},
    {"ramp_up_updates": 9},
    *TEACHER,
)
CASES = {
    "supervised": Case(Supervised, weights={"loss_supervised": 1}),
    "mean_teacher": Case(
        MeanTeacher,
        settings={"ramp_up_updates": 0},
        no_unlabeled={"consistency_weight": 0.0},
        weights={"loss_supervised": 1, "loss_consistency": 1},
        options=({"consistency_weight": 2.0}, {"ramp_up_updates": 9}, *TEACHER),
    ),
    "cps4": Case(
        CPS4,
        no_unlabeled={"text_weight": 1e-30, "enhance_weight": 0.0},
        weights={"loss_supervised": 1, "loss_text": 0.5, "loss_enhance": 0.5},
        options=(
            {"text_weight": 1.0}, {"enhance_weight": 1.0}, {"enhanced_target": "teacher"}, {"ramp_up_updates": 9},
            *TEACHER,
        ),
    ),
    "cps4_levers": Case(
        CPS4Levers,
        no_unlabeled={"text_weight": 1e-30, "enhance_weight": 0.0},
        weights={"loss_supervised": 1, "loss_text": 0.5, "loss_enhance": 0.5},
        options=({"grid_text": GridTextLoss()}, {"text_confidence": "sigmoid"}),
    ),
    "decoded": Case(
        DecodedPseudoLabels,
        no_unlabeled={"decoded_weight": 0.0},
        weights={"loss_supervised": 1, "loss_decoded": 1},
        options=({"decoded_weight": 2.0}, {"ramp_up_updates": 9}, {"batch_statistics": "joint"}),
    ),
    "unimatch_v2": Case(
        UniMatchV2,
        wrap=MaskedFeatures,
        settings={"threshold": 0.5},
        no_unlabeled={"unlabeled_weight": 0.0},
        supervised_share=0.5,
        weights={"loss_supervised": 0.5, "loss_strong": 0.5},
        options=(
            {"threshold": 0.9}, {"cutmix_probability": 1.0}, {"dropped_share": 1.0}, {"unlabeled_weight": 0.5},
            {"ramp_up_updates": 9}, *TEACHER,
        ),
    ),
    "vessa": Case(
        VESSA,
        wrap=MaskedFeatures,
        settings={"threshold": 0.5},
        no_unlabeled={"unlabeled_weight": 0.0},
        supervised_share=0.5,
        weights={"loss_supervised": 0.5, "loss_strong": 0.5},
        options=(
            {"teacher_share": 0.5}, {"fusion": "additional"}, {"threshold": 0.9}, {"cutmix_probability": 1.0},
            {"dropped_share": 1.0}, {"unlabeled_weight": 0.5}, {"ramp_up_updates": 9}, *TEACHER,
        ),
    ),
    "vessa_additional": Case(
        VESSA,
        wrap=MaskedFeatures,
        settings={"threshold": 0.5, "fusion": "additional", "teacher_share": 0.25},
        no_unlabeled={"unlabeled_weight": 0.0},
        supervised_share=0.5,
        weights={"loss_supervised": 0.5, "loss_strong": 0.5, "loss_assistant": 0.75},
        options=({"teacher_share": 0.5},),
    ),
    "ucmt": Case(
        UCMT,
        wrap=StudentPair,
        settings={"grid": 4, "ramp_share": 0.0, "dice_weight": 0.0},
        no_unlabeled={"unlabeled_weight": 0.0, "exchanged": 0},
        weights={"loss_supervised": 1, "loss_cross": 0.1, "loss_teacher": 0.1},
        options=(
            {"unlabeled_weight": 1.0}, {"ramp_share": 1.0}, {"dice_weight": 0.5}, {"teacher_mix": 0.5}, {"grid": 8},
            {"exchanged": 4}, *TEACHER,
        ),
    ),
    "ucmt_decoded": Case(
        DecodedUCMT,
        wrap=StudentPair,
        settings={"grid": 4, "ramp_share": 0.0, "dice_weight": 0.0},
        no_unlabeled={"unlabeled_weight": 0.0, "decoded_weight": 0.0, "exchanged": 0},
        weights={"loss_supervised": 1, "loss_cross": 0.1, "loss_teacher": 0.1, "loss_decoded": 1},
        options=({"decoded_weight": 2.0},),
    ),
    "dusss": Case(
        DuSSS,
        wrap=lambda network: TextGuided(network, VISION, width=8),
        settings={"vision": VISION, "dice_weight": 0.0, "ramp_share": 0.0},
        no_unlabeled={"unlabeled_weight": 0.0},
        supervised_share=0.5,
        weights={
            "loss_supervised": 0.5, "loss_pseudo": 0.5, "loss_text": 0.5, "loss_text_teacher": 0.5,
            "loss_text_contrast": 0.05,
        },
        options=(
            {"text_share": 0.9}, {"text_weight": 0.5}, {"unlabeled_weight": 0.5}, {"contrast_weight": 0.0},
            {"temperature": 0.5}, {"dice_weight": 0.5}, {"affinity_rounds": 0}, {"affinity_dilations": (1,)},
            {"ramp_share": 1.0}, *TEACHER,
        ),
    ),
    "bcp": Case(
        BCP,
        settings={"pretrain_fraction": 0.5},
        no_unlabeled=EMPTY,
        limit=of_the_second_half,
        weights={"loss_supervised": 1, "loss_pseudo": 0.5},
        options=MIXED,
    ),
    "graphcl": Case(
        GraphCL,
        wrap=GraphBranch,
        settings={"pretrain_fraction": 0.5},
        no_unlabeled={**EMPTY, "graph_weight": 0.0},
        limit=of_the_second_half,
        weights={"loss_supervised": 1, "loss_pseudo": 0.5, "loss_graph": 1},
        options=(
            *MIXED, {"graph_weight": 2.0}, {"per_pair": False}, {"tau": 4.0}, {"correlation": "printed"},
            {"dropout_seed": 1},
        ),
    ),
    "mc_net": Case(
        MCNet,
        wrap=MutualDecoders,
        settings={"ramp_share": 0.0, "supervision": "ce"},
        no_unlabeled={"consistency_weight": 0.0},
        limit=of_three_decoders,
        weights={"loss_supervised": 1, "loss_consistency": 0.1},
        options=(
            {"consistency_weight": 1.0}, {"ramp_share": 1.0}, {"temperature": 0.5}, {"sharpening": "softmax"},
            {"detach_targets": False}, {"supervision": "dice"}, {"sum_decoders": True},
            {"squared_error_classes": 20.0}, {"batch_statistics": "joint"},
        ),
    ),
    "ss_net": Case(
        SSNet,
        wrap=partial(ClassMemory, size=8),
        settings={"ramp_share": 0.0, "supervision": "ce", "pixels_per_class": 64},
        no_unlabeled={"consistency_weight": 0.0},
        weights={"loss_supervised": 1, "loss_smoothness": 0.1, "loss_separation": 0.01},
        options=(
            {"consistency_weight": 1.0}, {"ramp_share": 1.0}, {"separation_weight": 1.0}, {"vat_rms": 0.1},
            {"probe_rms": 0.3}, {"pixels_per_class": 16}, {"keep_memory": False}, {"memory_order": "worst"},
            {"weigh_memory": False}, {"background": True}, {"supervision": "ce+dice"}, {"batch_statistics": "joint"},
        ),
    ),
}  # fmt: skip
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


class Loader(list):
    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def batches(count: int = BATCHES, seed: int = 0) -> Loader:
    generator, own = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)

    def batch() -> dict[str, Any]:
        image = torch.rand(16, 1, SIZE, SIZE, generator=generator)
        label = torch.randint(0, CLASSES, (12, 1, SIZE, SIZE), generator=generator)
        maps = torch.randn(4, CLASSES, 4, 4, generator=generator)
        assistant = torch.randn(4, CLASSES, SIZE, SIZE, generator=own).mul(3).softmax(1)
        return {
            "labeled": {"image": image[:4], "label": label[:4].to(torch.uint8)},
            "unlabeled": {
                "image": image[4:8],
                "image_strong": image[8:12],
                "image_strong_2": image[12:],
                "prompt_map": label[4:8],
                "attention_logits": maps,
                "decoded_map": label[8:],
                "pseudo_probabilities": assistant,
            },
        }

    return Loader(batch() for _ in range(count))


def train(
    method: SemiSupervisedMethod, loader: Loader, epochs: int = 1, precision: Precision | None = None
) -> list[dict[str, torch.Tensor]]:
    """The losses of each iteration; the random draws depend on the iteration alone, as with EpochSeed."""
    total, seen = method.total_updates, []
    trainer = SemiSupervisedTrainer("cpu", epochs, loader, method, precision=precision)
    method.total_updates = total
    trainer.add_event_handler("ITERATION_STARTED", lambda _: torch.manual_seed(100 + method.updates))
    trainer.add_event_handler("ITERATION_COMPLETED", lambda engine: seen.append(engine.state.output[0]))
    trainer.run()
    return seen


def tensors(method: SemiSupervisedMethod) -> dict[str, torch.Tensor]:
    """All that training changes: whole networks, second students and heads among them, and what is kept beside."""
    networks = {f"{n}.{k}": v for n, net in method.networks.items() for k, v in net.state_dict().items()}
    return {name: value.clone() for name, value in {**networks, **method.extra_state()}.items()}


@ALL
def test_the_total_is_the_sum_of_its_parts_by_their_weights(case):
    losses = train(case.make(), batches())[-1]
    parts = {name: value for name, value in losses.items() if name.startswith("loss_")}
    assert parts.keys() == case.weights.keys()
    torch.testing.assert_close(losses["loss"], sum(case.weights[name] * value for name, value in parts.items()))


@ALL
def test_without_weight_on_unlabeled_slices_the_student_is_that_of_the_supervised_run(case):
    method, loader = case.make(**case.no_unlabeled), batches()
    student = copy.deepcopy(method.networks["student"])
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1 * case.supervised_share)
    train(method, loader)
    student.train()
    for batch in loader:
        for _ in range(method.steps_per_batch):
            optimizer.zero_grad()
            case.limit(student, batch).backward()
            optimizer.step()
    trained = deployable(method.networks["student"])
    for (name, ours), theirs in zip(trained.named_parameters(), deployable(student).parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5, msg=name)


@ALL
def test_a_run_in_bfloat16_begins_as_in_float32_and_all_that_is_kept_is_float32(case):
    full, half = case.make(), case.make()
    (expected, *_), (got, *_) = (
        train(method, batches(), precision=precision)
        for method, precision in ((full, None), (half, Precision("cpu", True, "bfloat16")))
    )
    assert got["loss"].item() == pytest.approx(expected["loss"].item(), rel=0.05)
    kept = {name: value.dtype for name, value in tensors(half).items() if value.is_floating_point()}
    assert kept == {name: torch.float32 for name in kept}


@ALL
def test_every_step_in_bfloat16_gives_gradients_to_what_has_them_in_float32(case):
    """Torch 2.8 loses those of weights that autocast has cast in a pass without gradient before."""
    without: list[list[set[str]]] = []
    for half in (False, True):
        method, loader = case.make(), batches()
        method.train()
        student = method.networks["student"]
        without.append([])
        for batch in loader:
            steps = method.steps(batch)
            for _ in range(method.steps_per_batch):
                student.zero_grad(set_to_none=True)
                torch.manual_seed(method.updates)
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    loss = method.losses(next(steps), batch)["loss"]
                loss.backward()
                without[-1].append({name for name, weight in student.named_parameters() if weight.grad is None})
                method.after_step()
    in_full, in_half = without
    assert in_half == in_full and len(in_full) == BATCHES * case.make().steps_per_batch
    assert len(in_full[-1]) < len(list(case.make().networks["student"].parameters())) / 2


@ALL
@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_saved_resumed_and_stepped_on_equals_an_uninterrupted_run_bit_by_bit(case, killed_after, tmp_path):
    """Two of four batches are BCP's first phase: a run resumed before, at and after the switch.

    The optimiser's momentum is part of the state: without it the next step would be another.
    """
    straight, loader = case.make(momentum=0.9), batches()
    train(straight, loader)
    first = case.make(momentum=0.9)
    train(first, Loader(loader[:killed_after]))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = case.make(momentum=0.9)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(second, Loader(loader[killed_after:]))
    assert second.updates == straight.updates == BATCHES * straight.steps_per_batch
    expected, got = tensors(straight), tensors(second)
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


@ALL
def test_the_deployed_state_dict_is_that_of_the_plain_network(case):
    method = case.make()
    train(method, batches(1))
    plain = ResUNet(1, CLASSES, features=(4, 8))
    plain.load_state_dict(method.deployed.state_dict(), strict=True)
    image = torch.rand(2, 1, SIZE, SIZE)
    torch.testing.assert_close(plain.eval()(image), method.predict(image)[method.deployed_name])


def learned_from_labels(outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of the predictions of labeled pixels, where those are; copy-paste has them on both sides of its rectangle."""
    places = {"mixed_logits": torch.ones(1, 1, 1, 1) > 0, "in_logits": outputs.get("patch")}
    places["out_logits"] = None if "patch" not in outputs else ~outputs["patch"]
    labeled = [n for n in outputs if "unlabeled" not in n and n.endswith(("labeled_logits", "labeled_perturbed"))]
    places |= {name: torch.ones(1, 1, 1, 1) > 0 for name in labeled}
    return {name: place for name, place in places.items() if name in outputs}


@ALL
@pytest.mark.parametrize("code", [2, 255])
@pytest.mark.parametrize("phase", ["first", "last"])
def test_pixels_that_nobody_annotated_get_no_gradient(case, code, phase):
    """2 is unannotated in the whole data set, 255 a pixel of one label map; predictions there are free."""
    method, (batch,) = case.make(**({"unannotated": (2,)} if code == 2 else {})), batches(1)
    method.updates = 0 if phase == "first" else method.total_updates - 1
    method.train()
    batch["labeled"]["label"][:, :, :4] = code
    outputs = method.forward(batch)
    places = learned_from_labels(outputs)
    for name in places:
        outputs[name] = outputs[name].detach().requires_grad_()
    method.losses(outputs, batch)["loss"].backward()
    assert places
    for name, place in places.items():
        gradient = outputs[name].grad * place
        assert gradient[:, :, :4].abs().sum() == 0 and gradient[:, :, 4:].abs().sum() > 0, name


@ALL
def test_a_class_that_is_never_annotated_gets_no_gradient(case):
    method = case.make(unannotated=(2,))
    method.train()
    (batch,) = batches(1)
    method.updates = method.total_updates - 1  # the last phase
    outputs = method.forward(batch)
    method.losses(outputs, batch)["loss"].backward()
    head = deployable(method.networks["student"]).head.weight.grad
    assert head[2].abs().sum() == 0 and head[1].abs().sum() > 0


def options_of(cls):
    """Arguments of a method that have a default, those that it passes on included."""
    arguments = arguments_of(f"{cls.__module__}.{cls.__qualname__}")
    return {name for name, default in arguments.items() if default is not inspect.Parameter.empty}


# Options that cannot be varied alone there: `deployed` and `unannotated` have tests of their own above.
NOT_VARIED = {
    "cps4_levers": {"text_weight", "enhance_weight", "enhanced_target", *options_of(TeacherStudent)},  # those of cps4
    "decoded": {"ema_decay"},  # the teacher makes targets between epochs, not in a step
    "vessa": {"feedback_from"},  # what a handler asks: test_vessa.py
    "vessa_additional": options_of(VESSA),  # those of vessa
    "ucmt": {"ramp_up_updates"},  # refused: it has a ramp of its own
    "ucmt_decoded": options_of(UCMT),  # those of ucmt
    "dusss": {"ramp_up_updates", "vision"},  # refused; what stage 1 has made
}


def test_every_method_of_stage_2_that_an_overlay_names_is_a_case_here():
    named = {entry.config["train"]["method"]["_target_"] for entry in list_methods(find_bundle_root())}
    assert {target.rpartition(".")[2] for target in named} <= {case.cls.__name__ for case in CASES.values()}


@pytest.mark.parametrize("name", CASES)
def test_every_option_is_varied_or_said_not_to_be(name):
    """A new option of a method needs a line in its case."""
    case = CASES[name]
    varied = {key for option in case.options for key in option}
    assert options_of(case.cls) - varied - NOT_VARIED.get(name, set()) <= {"deployed", "unannotated"}


@ALL
def test_no_step_waits_for_the_device_unless_it_says_so(case):
    for more in ({}, *case.options):
        method, loader = case.make(**more), batches()
        trainer = SemiSupervisedTrainer("cpu", 1, loader, method)
        with HostReads() as host:
            trainer.run()
        assert bool(host.reads) is method.waits_for_device, host.reads


@pytest.mark.parametrize(
    ("name", "option"),
    [(n, o) for n, c in CASES.items() for o in c.options],
    ids=lambda value: value if isinstance(value, str) else str(next(iter(value))),
)
def test_each_option_varied_alone_changes_the_loss(name, option):
    case = CASES[name]
    plain, varied = train(case.make(), batches()), train(case.make(**option), batches())
    assert [float(a["loss"]) for a in plain] != [float(b["loss"]) for b in varied]
