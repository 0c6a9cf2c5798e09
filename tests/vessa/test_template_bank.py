"""Templates are matched by features, never of the same patient in training, and recognised by a digest."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.vessa.template_bank import TemplateBank, class_shares, pooled_feature

IMAGES = torch.rand(3, 1, 8, 4)
LABELS = torch.randint(0, 4, (3, 1, 8, 4), dtype=torch.uint8)


def bank(patients=(0, 1, 1), images=IMAGES, labels=LABELS, **more):
    return TemplateBank(images[: len(patients)], labels[: len(patients)], patients, 4, (2, 1), **more)


def test_a_picture_finds_itself_and_with_its_patient_left_out_the_other():
    two, features = bank((7, 8)), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert two.match(features[:1], features, 1).tolist() == [[0]]
    assert two.match(features[:1], features, 1, excluded=torch.tensor([7])).tolist() == [[1]]


def test_where_exclusion_leaves_fewer_than_are_wanted_the_best_comes_twice():
    features = torch.eye(3)
    chosen = bank().match(features[1:2], features, 3, excluded=torch.tensor([1]))
    assert chosen.tolist() == [[0, 0, 0]]
    assert bank((0, 1)).match(features[:1, :2], torch.eye(2), 3).tolist() == [[0, 1, 0]]


def test_drawn_templates_are_uniform_among_the_best_and_come_once():
    many = TemplateBank(torch.rand(6, 1, 8, 4), torch.zeros(6, 1, 8, 4), range(6), 4, (2, 1))
    features = torch.nn.functional.normalize(torch.stack((torch.ones(6), torch.arange(6) / 2), dim=1), dim=1)
    query = torch.tensor([[1.0, 0.0]]).expand(3000, -1)
    counts = many.match(query, features, 1, pool=3).flatten().bincount(minlength=6)
    assert counts[3:].sum() == 0 and counts[:3].min() > 900
    assert torch.equal(many.match(query, features, 3, pool=3).sort(1).values, torch.arange(3).expand(3000, -1))


def test_labels_of_one_patient_are_refused_where_a_patient_is_left_out():
    with pytest.raises(ValueError, match=r"of one patient.*Fix: train with labels of two"):
        bank((4, 4)).match(torch.eye(2), torch.eye(2), 1, excluded=torch.tensor([4, 4]))


def test_shares_of_classes_in_patches_by_hand():
    label = torch.zeros(1, 1, 4, 2, dtype=torch.uint8)
    label[..., :2, 0] = 3
    label[..., 2:, :] = 255  # nobody annotated the lower patch
    shares = class_shares(label, 4, (2, 1))[0, :, :, 0]
    assert shares.T.tolist() == [[0.5, 0.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]]


def test_the_digest_knows_pictures_labels_and_ids():
    changed = LABELS.clone()
    changed[2, 0, 7, 3] += 1
    banks = [bank(), bank(images=IMAGES.flip(0)), bank(labels=changed), bank(slice_ids=(0, 1, 5))]
    assert len({b.digest for b in banks}) == 4 and banks[0].digest == bank().digest


def test_a_data_set_gives_its_slices_unaugmented_and_the_patient_of_each():
    class Slices:
        def __init__(self):
            self.entries = [type("Entry", (), {"patient": name}) for name in ("anna", "bert", "anna")]
            self.transform, self.with_grid = lambda item: {}, True

        def __len__(self):
            return 6

        def place(self, index):
            return index // 2, index % 2

        def __getitem__(self, index):
            item = {"image": torch.full((1, 8, 4), index / 10), "label": torch.zeros(1, 8, 4, dtype=torch.uint8)}
            return item if self.transform is None else self.transform(item)

    made = TemplateBank.from_slices(Slices(), 4, (2, 1), max_templates=3)
    assert made.slice_ids == (0, 2, 4) and made.patients.tolist() == [0, 1, 0] and made.num_patients == 2
    assert made.patient_of_slice.tolist() == [0, 0, 1, 1, 0, 0]
    torch.testing.assert_close(made.images[:, 0, 0, 0].float(), torch.tensor([0.0, 0.2, 0.4]), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="max_templates is 0"):
        TemplateBank.from_slices(Slices(), 4, (2, 1), max_templates=0)

    class Sparse(Slices):
        """Of each patient the second slice is annotated, of the last none."""

        def __getitem__(self, index):
            item = super().__getitem__(index)
            return item if index in (1, 3) else {**item, "label": torch.full((1, 8, 4), 255, dtype=torch.uint8)}

    sparse = TemplateBank.from_slices(Sparse(), 4, (2, 1))
    assert sparse.slice_ids == (1, 3) and sparse.patients.tolist() == [0, 1]
    assert sparse.patient_of_slice.tolist() == [0, 0, 1, 1, 0, 0]
    blank = Slices()
    blank.entries, Slices.__getitem__ = blank.entries[:1], lambda self, index: {"label": torch.tensor([255])}
    with pytest.raises(ValueError, match="no labeled slice has an annotated pixel"):
        TemplateBank.from_slices(blank, 4, (2, 1))


def test_features_are_of_length_one():
    torch.testing.assert_close(pooled_feature(torch.rand(2, 5, 3, 3)).norm(dim=1), torch.ones(2))
