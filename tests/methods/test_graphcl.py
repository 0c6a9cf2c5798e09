"""GraphCL by its card: the clustering loss by hand in both forms, its limit, the resting branch, what is deployed."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from turned_products import TurnedProducts

from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.methods import BCP, GraphCL
from cps4_monai.methods.graphcl import clustering_loss, clusters_in_use
from cps4_monai.networks import AlignedResUNet, GraphBranch, ResUNet, build_network, describe
from cps4_monai.networks.graph_branch import GraphAlignment, correlation_of, propagated

FEATURES = (4, 8)


def network(aligned: bool = False) -> ResUNet:
    torch.manual_seed(0)
    return (AlignedResUNet if aligned else ResUNet)(1, 20, features=FEATURES)


def make(student=None, **settings) -> GraphCL:
    student = GraphBranch(network()) if student is None else student
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01, weight_decay=0.1)
    method = GraphCL(student, optimizer, **{"pretrain_fraction": 0.5, **settings})
    method.total_updates = 4
    return method


class Loader(list):
    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(4, 8, 1, 12, 12, generator=generator)
    label = torch.randint(0, 20, (4, 4, 1, 12, 12), generator=generator).to(torch.uint8)
    return Loader(
        {"labeled": {"image": i[:4], "label": k}, "unlabeled": {"image": i[4:]}}
        for i, k in zip(image, label, strict=True)
    )


def train(method, batches) -> list[dict[str, torch.Tensor]]:
    total, seen = method.total_updates, []
    trainer = SemiSupervisedTrainer("cpu", 1, batches, method)
    method.total_updates = total
    trainer.add_event_handler("ITERATION_STARTED", lambda _: torch.manual_seed(method.updates))
    trainer.add_event_handler("ITERATION_COMPLETED", lambda engine: seen.append(engine.state.output[0]))
    trainer.run()
    return seen


ORTHOGONAL, IDENTICAL = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
ONE, TWO = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2)


@pytest.mark.parametrize(
    ("correlation", "features", "one", "two"),
    [
        ("centred", ORTHOGONAL, 0.0, -1.0),  # separation wins
        ("centred", IDENTICAL, -2.0, -1.0),  # merging wins
        ("printed", ORTHOGONAL, 1.0, 0.0),
        ("printed", IDENTICAL, 0.0, 0.0),  # merging never wins
    ],
)
def test_clustering_of_two_places_by_hand(correlation, features, one, two):
    weights = correlation_of((features @ features.T)[None], 2.0, correlation)
    assert clustering_loss(weights, ONE[None]).item() == one and clustering_loss(weights, TWO[None]).item() == two


def test_correlation_and_messages_by_hand():
    weights = correlation_of(torch.eye(2)[None], 2.0)
    assert weights.tolist() == [[[0.5, -0.5], [-0.5, 0.5]]]
    edges = torch.tensor([[[1.0, 3.0], [3.0, 1.0]]])  # degrees 4 and 4
    assert propagated(edges, torch.tensor([[[1.0], [0.0]]])).tolist() == [[[0.25], [0.75]]]


def test_clusters_are_made_of_aligned_unit_features_by_one_graph_convolution():
    student, features = GraphBranch(network()).eval(), torch.randn(2, 8, 3, 2)
    correlation, clusters = student.clustered(features, 2.0, "centred")
    aligned = student.align(features).flatten(2).mT
    aligned = aligned - aligned.mean(1, keepdim=True)
    units = aligned / aligned.norm(dim=2, keepdim=True)
    cosines = units @ units.mT
    expected = cosines - cosines.amax((1, 2), keepdim=True) / 2
    edges = expected.clamp(min=0)
    degrees = edges.sum(2)
    messages = edges / (degrees[:, :, None] * degrees[:, None]).sqrt() @ (units @ student.convolution.weight.T)
    torch.testing.assert_close(correlation, expected)
    torch.testing.assert_close(clusters, student.to_clusters(F.elu(messages)).softmax(2))
    assert student.convolution.out_features == 64 and student.to_clusters[0].out_features == 32
    assert clusters.shape == (2, 6, 20)


def test_places_of_a_picture_repel_each_other_whatever_its_features_have_in_common():
    """Features after a ReLU, all places alike but for a little: aligned by a dense graph they are nearly parallel."""
    generator = torch.Generator().manual_seed(0)
    features = 1 + 0.3 * torch.rand(2, 8, 6, 6, generator=generator)
    plain, centred = (GraphBranch(network(), centre_nodes=centre).eval() for centre in (False, True))
    centred.load_state_dict(plain.state_dict())
    correlation = {
        name: net.clustered(features, 2.0, "centred")[0] for name, net in (("plain", plain), ("centred", centred))
    }
    assert (correlation["plain"] > 0).all()  # nothing repels: one cluster is the least of the loss
    assert ((correlation["centred"] < 0).float().mean((1, 2)) > 0.3).all()
    # ... and the least of the loss is no longer one cluster: two by the sign of the leading direction are less
    weights = correlation["centred"][:1]
    side = (torch.linalg.eigh(weights[0]).eigenvectors[:, -1] > 0).float()
    one, two = torch.ones(36, 1), torch.stack((side, 1 - side), 1)
    assert clustering_loss(weights, two[None]) < clustering_loss(weights, one[None])


def test_clusters_in_use_are_counted_in_each_picture():
    clusters = torch.zeros(2, 3, 4)
    clusters[0, :, 1] = 1
    clusters[1, torch.arange(3), torch.tensor([0, 3, 3])] = 1
    assert clusters_in_use(clusters).item() == 1.5


def test_a_graph_is_that_of_one_picture():
    align, features = GraphAlignment(8), torch.rand(3, 8, 4, 2)
    torch.testing.assert_close(align(features)[1:2], align(features[1:2]))
    assert align(features).shape == features.shape


@pytest.mark.parametrize("batch_statistics", ["separate", "joint"])
def test_without_weight_it_is_bcp_bit_by_bit(batches, batch_statistics):
    plain = network()
    bcp = BCP(
        plain,
        torch.optim.Adam(plain.parameters(), lr=0.01, weight_decay=0.1),
        pretrain_fraction=0.5,
        batch_statistics=batch_statistics,
    )
    bcp.total_updates = 4
    method = make(graph_weight=0.0, batch_statistics=batch_statistics)
    ours, theirs = train(method, batches), train(bcp, batches)
    assert "loss_graph" in ours[-1] and [float(a["loss"]) for a in ours] == [float(b["loss"]) for b in theirs]
    expected = bcp.student.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in method.student.state_dict().items())


def test_with_weight_its_gradient_reaches_the_encoder_and_not_the_decoder(batches):
    method = make(pretrain_fraction=0.0)
    method.losses(method.forward(batches[0]), batches[0])["loss_graph"].backward()
    assert method.student.encoder[0].conv1.conv.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in [*method.student.decoder.parameters(), *method.student.head.parameters()])


def test_the_branch_rests_in_the_first_phase_even_from_weight_decay(batches):
    method = make()
    branch = method.networks["student"].branch
    before = [p.detach().clone() for p in branch]
    train(method, Loader(batches[:2]))
    assert all(torch.equal(a, b) for a, b in zip(before, branch, strict=True))
    train(method, Loader(batches[2:]))
    assert not any(torch.equal(a, b) for a, b in zip(before, branch, strict=True))


def test_a_resting_branch_gives_every_parameter_a_gradient_of_zero():
    """DistributedDataParallel waits for one of each."""
    student = GraphBranch(network())
    image = torch.rand(2, 1, 12, 12)
    logits = student(image, resting=True)
    assert torch.equal(logits, student.backbone(image))
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in student.branch)


def test_the_plain_sum_is_the_mean_over_pairs_times_their_number(batches):
    mean, plain = train(make(), batches)[2], train(make(per_pair=False, graph_weight=1 / 36**2), batches)[2]
    torch.testing.assert_close(plain["loss_graph"], 36**2 * mean["loss_graph"])  # 6 x 6 places
    torch.testing.assert_close(plain["loss"], mean["loss"])


def test_the_share_of_the_graph_and_the_clusters_are_shown(batches):
    losses = train(make(graph_weight=2.0), batches)[-1]
    graph = 2 * losses["loss_graph"].detach()
    sizes = graph.abs(), (losses["loss"].detach() - graph).abs()
    assert losses["graph_share"] == pytest.approx(float(sizes[0] / sum(sizes)), rel=1e-4)
    assert 1 <= losses["clusters_in_use"] <= 20 and 0 < losses["repelling_pairs"] < 1


def test_an_aligned_decoder_is_another_network_that_a_plan_can_build_and_that_can_be_scripted(batches):
    aligned = network(aligned=True)
    method = make(GraphBranch(aligned))
    losses = train(method, batches)[-1]
    assert "loss_graph" in losses and aligned.align.weight.weight.grad.abs().sum() > 0
    description = describe(method.deployed)
    assert description["_target_"] == "cps4_monai.networks.AlignedResUNet"
    fresh = build_network(description)
    fresh.load_state_dict(method.deployed.state_dict(), strict=True)
    image = torch.rand(2, 1, 12, 12)
    expected = method.deployed.eval()(image)
    torch.testing.assert_close(fresh.eval()(image), expected)
    torch.testing.assert_close(torch.jit.script(fresh)(image), expected)
    torch.testing.assert_close(fresh(image[:1]), expected[:1])  # no picture depends on its neighbours in the batch
    own = set(fresh.state_dict()) - set(network().state_dict())
    assert own == {"align.analyser.weight", "align.analyser.bias", "align.weight.weight"}


def test_dropout_draws_by_itself(batches):
    plain, other = make(), make(GraphBranch(network(), dropout=0.5))
    first, second = (train(method, batches)[2] for method in (plain, other))
    assert first["loss_graph"] != second["loss_graph"] and first["loss_supervised"] == second["loss_supervised"]


def test_each_forward_pass_of_a_step_draws_its_own_dropout(batches):
    method, seeds = make(), []
    for updates in (0, 0, 3, 3, 3, 4):
        method.updates = updates
        seeds.append(method._drawn_from(torch.device("cpu")).initial_seed())
    assert len(set(seeds)) == 6
    again = make()
    again.updates = 4  # resumed there
    assert again._drawn_from(torch.device("cpu")).initial_seed() == seeds[-1]


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="one above 1"):
        make(tau=1.0)
    with pytest.raises(ValueError, match="'centred', 'printed'"):
        make(correlation="cut")
    plain = network()
    with pytest.raises(TypeError, match=r"expected cps4_monai\.networks\.GraphBranch"):
        GraphCL(plain, torch.optim.SGD(plain.parameters(), lr=0.1))


def test_the_alignment_makes_no_product_of_turned_nodes():
    alignment = GraphAlignment(8)
    with TurnedProducts() as products, torch.no_grad():
        alignment(torch.rand(2, 8, 4, 3))
    assert products.count == 2 and products.turned == []
