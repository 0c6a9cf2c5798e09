"""DuSSS, stage 1: contrasts by hand, momentum copies, ablations, options, resuming, ignored pixels, no waits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from host_reads import HostReads

from cps4_monai.anatomy import Anatomy, Structure
from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.methods import DuSSSPretraining
from cps4_monai.networks import UncertainEmbeddings
from cps4_monai.networks.uncertain_embeddings import hard_mask
from cps4_monai.text import TextEncoder, write_tiny_text_encoder
from cps4_monai.vision import VisionEncoder
from cps4_monai.vlm import VisionLanguageModel

NAMES = ("background", "sacrum", "vertebra", "disc")
KINDS = ("background", "sacrum", "vertebra", "disc")
ANATOMY = Anatomy([Structure(i, n, n, k, i or None) for i, (n, k) in enumerate(zip(NAMES, KINDS, strict=True))])
WORDINGS = [f"a picture with {name}" for name in NAMES]


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    return write_tiny_text_encoder(tmp_path_factory.mktemp("text"), [*ANATOMY.prompts, *WORDINGS], 16, 1)


@pytest.fixture
def make(text_folder):
    def build(wordings=WORDINGS, **settings) -> DuSSSPretraining:
        torch.manual_seed(0)
        vision = VisionEncoder(
            "vit_tiny_patch16_224", (32, 16), False, patch_size=8, embed_dim=24, depth=1, num_heads=2
        )
        vlm = VisionLanguageModel(vision, TextEncoder(text_folder), ANATOMY.prompts, embedding_dim=12)
        network = UncertainEmbeddings(vlm, wordings)
        optimizer = torch.optim.Adam(network.parameter_groups(1e-3, 1e-2, 1.0))
        return DuSSSPretraining(network, optimizer, **settings)

    return build


class Loader(list):
    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def batches(count: int = 3, shown: tuple[int, ...] = (1, 2, 3)) -> Loader:
    """Each slice shows background and a subset of the classes."""
    generator = torch.Generator().manual_seed(1)
    made = Loader()
    for _ in range(count):
        image = torch.rand(8, 1, 32, 16, generator=generator)
        label = torch.zeros(4, 1, 32, 16, dtype=torch.uint8)
        for index in range(4):
            for code in shown[: index + 1]:
                label[index, 0, 4 * code : 4 * code + 4] = code
        made.append({"labeled": {"image": image[:4], "image_strong": image[4:], "label": label}})
    return made


def train(method: DuSSSPretraining, loader: Loader) -> list[dict[str, torch.Tensor]]:
    seen = []
    trainer = SemiSupervisedTrainer("cpu", 1, loader, method)
    trainer.add_event_handler("ITERATION_STARTED", lambda _: torch.manual_seed(100 + method.updates))
    trainer.add_event_handler("ITERATION_COMPLETED", lambda engine: seen.append(engine.state.output[0]))
    trainer.run()
    return seen


def test_without_uncertainty_it_is_clip_with_momentum_views(make):
    """lambda = 0, worked out here from the embeddings of both networks."""
    method, (batch,) = make(uncertainty_weight=0.0), batches(1)
    labeled = batch["labeled"]
    losses = method.losses(method.forward(batch), batch)
    model, momentum = method.deployed, method.networks["momentum"].backbone

    def pooled(network, image, prompts):
        images = F.normalize(network.patch_embeddings(image).mean((2, 3)), dim=1)
        present = torch.stack([(labeled["label"] == code).flatten(1).any(1) for code in range(4)], dim=1).float()
        return images, F.normalize(present @ prompts / present.sum(1, keepdim=True), dim=1)

    prompts = model.prompt_embeddings()
    other = momentum.prompt_embeddings(
        (method.networks["momentum"].second_ids, method.networks["momentum"].second_mask)
    )
    images, captions = pooled(model, labeled["image"], prompts)
    second, _ = pooled(momentum, labeled["image_strong"], other)
    # slices 2 and 3 both show all classes: each is right for both
    target = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]])
    similarity = images @ captions.T / 0.07
    cross = F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)
    intra = F.cross_entropy(images @ second.T / 0.07, torch.arange(4))
    intra = intra + F.cross_entropy(prompts @ other.T / 0.07, torch.arange(4))
    torch.testing.assert_close(losses["loss_cross_modal"], cross)
    torch.testing.assert_close(losses["loss_intra_modal"], intra)
    torch.testing.assert_close(losses["loss"], cross + intra)
    assert losses["uncertain_share"] == 0


def test_equal_similarities_cost_the_logarithm_of_their_number(make):
    method, (batch,) = make(), batches(1, shown=(1,))
    outputs = method.forward(batch)
    same = {name: torch.zeros_like(value) for name, value in outputs.items() if value.is_floating_point()}
    losses = method.losses({**outputs, **same}, batch)
    assert losses["loss_intra_modal"].item() == pytest.approx(2 * math.log(4))
    assert losses["loss_cross_modal"].item() == pytest.approx(2 * math.log(4))


def test_uncertainty_makes_pairs_more_similar_and_trains_the_heads_only_where_it_counts(make):
    plain, supervised = make(uncertainty_weight=0.0), make()
    (batch,) = batches(1)
    before, after = plain.forward(batch), supervised.forward(batch)
    for name in ("image_to_caption", "image_to_image", "prompt_to_prompt"):
        assert (after[name] >= before[name]).all() and not torch.equal(after[name], before[name])
    for method, trained in ((plain, False), (supervised, True)):
        method.losses(method.forward(batch), batch)["loss"].backward()
        head = method.networks["model"].image_gaussian.log_sigma.weight.grad
        assert bool(head.abs().sum() > 0) is trained


def test_after_a_step_every_momentum_parameter_has_moved_by_its_share(make):
    method, loader = make(masked_weight=0.1), batches(1)
    old = {name: value.clone() for name, value in method.networks["momentum"].named_parameters()}
    train(method, loader)
    new, now = dict(method.networks["model"].named_parameters()), dict(method.networks["momentum"].named_parameters())
    assert old.keys() == new.keys() == now.keys()
    assert not any(value.requires_grad for value in now.values())
    moved = [name for name in old if not torch.equal(old[name], new[name])]
    assert len(moved) == len(old), set(old) - set(moved)
    for name in old:
        torch.testing.assert_close(now[name], 0.995 * old[name] + 0.005 * new[name], msg=name)


def test_momentum_encoders_see_the_second_view_and_give_no_gradient(make):
    method, (batch,) = make(), batches(1)
    plain = method.forward(batch)
    batch["labeled"]["image_strong"] = torch.rand(4, 1, 32, 16)
    other = method.forward(batch)
    assert torch.equal(plain["image_to_caption"], other["image_to_caption"])
    assert not torch.equal(plain["image_to_image"], other["image_to_image"])
    method.losses(other, batch)["loss"].backward()
    assert all(parameter.grad is None for parameter in method.networks["momentum"].parameters())


WEIGHTS = {"cross_modal_weight": 0.5, "intra_modal_weight": 2.0, "local_weight": 0.3, "masked_weight": 0.1}


def test_the_total_is_the_sum_of_its_parts_by_their_weights(make):
    losses = train(make(**WEIGHTS), batches(2))[-1]
    parts = [name for name in losses if name.startswith("loss_")]
    assert parts == ["loss_cross_modal", "loss_intra_modal", "loss_local", "loss_masked"]
    total = sum(WEIGHTS[f"{name.removeprefix('loss_')}_weight"] * losses[name] for name in parts)
    torch.testing.assert_close(losses["loss"], total)


OPTIONS = [
    {"momentum": 0.5}, {"temperature": 0.2}, {"uncertainty_weight": 0.0}, {"cross_modal_weight": 0.5},
    {"intra_modal_weight": 0.0}, {"local_weight": 0.2}, {"masked_weight": 0.1}, {"unannotated": (2,)},
]  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: next(iter(option)))
def test_each_option_varied_alone_changes_the_loss(make, option):
    plain, varied = train(make(), batches()), train(make(**option), batches())
    assert [float(a["loss"]) for a in plain] != [float(b["loss"]) for b in varied]


@pytest.mark.parametrize("killed_after", [1, 2])
def test_saved_resumed_and_stepped_on_equals_an_uninterrupted_run_bit_by_bit(make, killed_after, tmp_path):
    straight, loader = make(**WEIGHTS), batches()
    train(straight, loader)
    first = make(**WEIGHTS)
    train(first, Loader(loader[:killed_after]))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make(**WEIGHTS)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(second, Loader(loader[killed_after:]))
    for name, network in straight.networks.items():
        state = second.networks[name].state_dict()
        assert [key for key, value in network.state_dict().items() if not torch.equal(value, state[key])] == []


def test_pixels_that_nobody_annotated_name_no_class(make):
    """Within a cell that holds others, too."""
    method, (batch,) = make(**WEIGHTS), batches(1)
    losses = []
    for code in (0, 255):  # background is there anyway
        batch["labeled"]["label"][:, :, 20, 3] = code
        torch.manual_seed(0)
        losses.append(method.losses(method.forward(batch), batch)["loss"])
    assert torch.equal(*losses)


@pytest.mark.parametrize(("code", "unannotated"), [(255, ()), (2, (2,))])
def test_patches_over_which_nothing_is_annotated_get_no_gradient(make, code, unannotated, monkeypatch):
    method, (batch,) = make(unannotated=unannotated, **WEIGHTS), batches(1)
    batch["labeled"]["label"][:, :, :8, :8] = code  # the first of 4 x 2 cells
    patches = []
    vlm = method.deployed
    plain = vlm.patch_embeddings

    def kept(image):
        patches.append(plain(image).detach().requires_grad_())
        return patches[-1]

    monkeypatch.setattr(vlm, "patch_embeddings", kept)
    method.losses(method.forward(batch), batch)["loss"].backward()
    assert len(patches) == 2, "the picture, and what its caption holds of it"
    for embedding in patches:
        assert embedding.grad[:, :, 0, 0].abs().sum() == 0 and embedding.grad[:, :, 1:].abs().sum() > 0


def test_a_slice_that_nobody_annotated_takes_no_part(make):
    method, (batch,) = make(**WEIGHTS), batches(1)
    batch["labeled"]["label"][3] = 255
    outputs = method.forward(batch)
    losses = method.losses(outputs, batch)
    for name in ("image_to_caption", "image_to_image", "local_image", "local_prompt", "masked_feature", "masked_image"):
        wild = outputs[name].clone()
        wild[:, 3] += 7
        if len(wild) == 4 and name != "local_prompt":
            wild[3] += 5
        assert torch.equal(method.losses({**outputs, name: wild}, batch)["loss"], losses["loss"]), name
    assert losses["loss"].isfinite() and losses["loss_cross_modal"] > 0


def test_a_class_that_is_never_annotated_is_in_no_caption_and_no_contrast(make):
    """What its prompt is changes nothing."""
    method, (batch,) = make(unannotated=(2,), local_weight=0.2), batches(1)
    outputs = method.forward(batch)
    losses = method.losses(outputs, batch)
    for name in ("prompt_to_prompt", "local_prompt"):
        wild = outputs[name].detach().clone()
        wild[2] += 5
        if name == "prompt_to_prompt":
            wild[:, 2] += 5
        assert torch.equal(method.losses({**outputs, name: wild}, batch)["loss"], losses["loss"]), name
    assert not outputs["present"][:, 2].any()


def test_what_stage_2_sees_gives_the_logits_of_the_trained_network_and_says_by_what(make):
    method = make()
    train(method, batches(1))
    frozen, image = method.freeze(), torch.rand(2, 1, 32, 16)
    torch.testing.assert_close(frozen(image), method.deployed.eval()(image))
    torch.testing.assert_close(frozen(image), method.networks["model"].eval()(image))
    assert frozen.objective == "DuSSS objective on class prompts" and "labeled slice" in frozen.substitution


def test_masks_are_0_or_1_and_pass_the_gradient_of_the_soft_draw():
    logits = torch.full((10000,), -1.0, requires_grad=True)
    mask = hard_mask(logits)
    assert set(mask.tolist()) == {0.0, 1.0}
    assert mask.mean().item() == pytest.approx(torch.sigmoid(torch.tensor(-1.0)).item(), abs=0.02)
    mask.sum().backward()
    assert logits.grad.abs().sum() > 0


def test_a_caption_is_compared_with_what_it_holds_of_a_slice(make, monkeypatch):
    """Softly of the features, by its own caption's mask of the picture; the draw is a threshold here."""
    monkeypatch.setattr("cps4_monai.networks.uncertain_embeddings.hard_mask", lambda logits: (logits > -2.5).float())
    method, (batch,) = make(masked_weight=0.1), batches(1)
    outputs, model, image = method.forward(batch), method.deployed, batch["labeled"]["image"]
    present, prompts, patches = outputs["present"].float(), model.prompt_embeddings(), model.patch_embeddings(image)
    captions = F.normalize(present @ prompts, dim=1)
    cosine = torch.einsum("behw,ke->bkhw", patches, captions)
    held = torch.einsum("bkhw,behw->bke", (10 * cosine - 2.5).sigmoid(), patches)
    torch.testing.assert_close(
        outputs["masked_feature"], torch.einsum("bke,ke->bk", F.normalize(held, dim=2), captions)
    )
    own = torch.stack([cosine[i, i] for i in range(4)]).unsqueeze(1) > 0
    seen = model.patch_embeddings(image * F.interpolate(own.float(), image.shape[2:]))
    expected = F.normalize(seen.mean((2, 3)), dim=1) @ captions.T
    torch.testing.assert_close(outputs["masked_image"], expected)
    assert own.any() and not own.all()


def test_only_the_masked_branch_trains_scale_and_bias(make):
    (batch,) = batches(1)
    for weight, trained in ((0.0, False), (0.1, True)):
        method = make(masked_weight=weight)
        method.losses(method.forward(batch), batch)["loss"].backward()
        assert (method.deployed.log_scale.grad is not None) is trained


def test_all_parameters_are_in_one_group_each_the_heads_among_the_new_ones(make):
    method = make()
    ids = [id(p) for group in method.optimizers["model"].param_groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in method.networks["model"].parameters())


def test_the_validation_loss_has_no_dropout_while_the_model_trains(make):
    method, (batch,) = make(), batches(1)
    for module in method.deployed.text_encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    method.train()
    labeled = batch["labeled"]
    values = [method.validation_loss(labeled["image"], labeled["label"]).item() for _ in range(2)]
    assert values[0] == values[1] and method.networks["model"].training


def test_no_step_waits_for_the_device(make):
    """The optimiser is left out: on a CPU, Adam counts its steps on the host."""
    method, given = make(unannotated=(2,), **WEIGHTS), batches(2)
    with HostReads() as host:
        for batch in given:
            method.train()
            method.losses(method.forward(batch), batch)["loss"].backward()
            method.after_step()
    assert host.reads == []


def test_similarities_are_float32_under_autocast(make):
    method, (batch,) = make(**WEIGHTS), batches(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = method.forward(batch)
        losses = method.losses(outputs, batch)
    assert {value.dtype for value in outputs.values()} == {torch.float32, torch.bool}
    losses["loss"].backward()
    gradients = [p.grad for p in method.networks["model"].parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.5}, "momentum is 1.5; expected a share"),
        ({"temperature": 0.0}, "temperature is 0.0; expected a positive"),
        ({"uncertainty_weight": -1.0}, "uncertainty_weight is -1.0"),
        ({"cross_modal_weight": 0.0, "intra_modal_weight": 0.0}, "one weight above"),
        ({"wordings": ANATOMY.prompts}, "Fix: set second_prompt_template"),
        ({"wordings": WORDINGS[:2]}, "wordings are 2 texts"),
    ],
)
def test_bad_settings_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_a_plain_model_and_a_batch_without_second_views_are_refused(make):
    method, (batch,) = make(), batches(1)
    with pytest.raises(TypeError, match="UncertainEmbeddings"):
        DuSSSPretraining(method.deployed, method.optimizers["model"])
    del batch["labeled"]["image_strong"]
    with pytest.raises(ValueError, match="strong_views: 1"):
        method.forward(batch)
