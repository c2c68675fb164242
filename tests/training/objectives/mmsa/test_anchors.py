"""Anchors: activations and moving means against loops, the first anchors, those seeded anew, and what use is best."""

import math

import numpy as np
import pytest
import torch

from molstream.training.objectives.mmsa.anchors import (
    STARVED_STEPS,
    FollowingAnchors,
    LearnedAnchors,
    entropy_of_mean,
    mean_entropy,
    spread_out,
    usage_loss,
)
from tests.support.molecules import seeded

WIDTH, COUNT = 6, 4


def molecules(count=40):
    return torch.randn(count, WIDTH, dtype=torch.float64, generator=seeded())


def following(decay=0.9, count=COUNT, similarity="cosine"):
    """Anchors that have been drawn from other molecules."""
    anchors = FollowingAnchors(count, WIDTH, similarity, 0.1, decay).double()
    spare = torch.randn(50, WIDTH, dtype=torch.float64, generator=seeded(1))
    assert not anchors.ready()
    anchors.follow(torch.zeros(20, count), torch.zeros(20, WIDTH), spare, seeded(2))
    assert anchors.ready()
    return anchors


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_activations_and_read_outs_are_those_of_the_formulas(similarity):
    anchors, z = following(similarity=similarity), molecules()
    log_activation, read = anchors(z)
    vectors = anchors.vectors.numpy()
    for row, found, out in zip(z.numpy(), log_activation.exp().numpy(), read.numpy()):
        lengths = np.linalg.norm(row) * np.linalg.norm(vectors, axis=1) if similarity == "cosine" else 1.0
        weight = np.exp(vectors @ row / lengths / 0.1)
        np.testing.assert_allclose(found, weight / weight.sum())
        np.testing.assert_allclose(out, sum(a * vector for a, vector in zip(found, vectors)))
    np.testing.assert_allclose(log_activation.exp().sum(1), 1.0)


def test_one_anchor_is_what_every_molecule_reads():
    anchors, z = following(count=1), molecules()
    activation, read = anchors(z)
    assert not activation.any()
    torch.testing.assert_close(read, anchors.vectors.expand(len(z), -1))


def test_anchors_without_memory_are_the_means_of_what_activates_them():
    anchors, z = following(decay=0.0), molecules()
    activation = anchors(z)[0].exp()
    anchors.follow(activation, z, z, seeded())
    for k in range(COUNT):
        mean = np.average(z.numpy(), axis=0, weights=activation[:, k].numpy())
        np.testing.assert_allclose(anchors.vectors[k], mean, rtol=1e-4)


def test_anchors_are_moving_means():
    anchors, z = following(decay=0.9), molecules()
    mass, sums = anchors.mass.clone(), anchors.sums.clone()
    torch.testing.assert_close(mass, torch.full((COUNT,), 20 / COUNT, dtype=torch.float64))
    for step in range(3):
        activation = anchors(z + step)[0].exp()
        mass = 0.9 * mass + 0.1 * activation.sum(0)
        sums = 0.9 * sums + 0.1 * sum(torch.outer(a, row) for a, row in zip(activation, z + step))
        anchors.follow(activation, z + step, z, seeded())
    torch.testing.assert_close(anchors.vectors, sums / (mass + 1e-5).unsqueeze(1))


def test_the_joined_batch_of_two_halves_moves_anchors_as_their_sums():
    """Item 5 of the specification: two processes whose sums are added are one process with both batches."""
    whole, parts, z = following(), following(), molecules()
    activation = whole(z)[0].exp()
    whole.follow(activation, z, z, seeded())
    mass = activation[:20].sum(0) + activation[20:].sum(0)
    sums = activation[:20].T @ z[:20] + activation[20:].T @ z[20:]
    parts.mass.lerp_(mass, 0.1)
    parts.sums.lerp_(sums, 0.1)
    torch.testing.assert_close(whole.vectors, parts.sums / (parts.mass + 1e-5).unsqueeze(1), rtol=1e-5, atol=0)


def test_an_anchor_that_starves_takes_the_place_of_a_molecule():
    anchors, z = following(decay=0.5), molecules()
    activation = torch.full((len(z), COUNT), 1 / 3, dtype=torch.float64)
    activation[:, 2] = 0.0
    starving = [0]
    while not anchors.reseeded and len(starving) < 2 * STARVED_STEPS:
        starving.append(int(anchors.starved[2]))
        anchors.follow(activation, z, z, seeded(len(starving)))
    # It takes a few steps until the mass is below a hundredth of the mean.
    assert starving[-1] == STARVED_STEPS - 1
    assert starving.count(0) < 12
    assert anchors.num_reseeded() == 1
    assert any(torch.equal(anchors.vectors[2], row) for row in z)
    assert anchors.mass[2] > 0.5 * anchors.mass.mean()
    assert not anchors.starved.any()


def test_the_first_anchors_are_spread_over_clusters_and_wait_for_enough_molecules():
    centres = 100.0 * torch.eye(WIDTH, dtype=torch.float64)
    z = (centres.unsqueeze(1) + torch.randn(WIDTH, 9, WIDTH, dtype=torch.float64, generator=seeded())).flatten(0, 1)
    for seed in range(20):
        drawn = spread_out(z, WIDTH, seeded(seed))
        assert sorted((drawn // 9).tolist()) == list(range(WIDTH))
    assert len(spread_out(torch.ones(3, WIDTH), 3, seeded())) == 3
    anchors = FollowingAnchors(COUNT, WIDTH, "cosine", 0.1, 0.9)
    anchors.follow(torch.zeros(2, COUNT), torch.zeros(2, WIDTH), torch.ones(COUNT - 1, WIDTH), seeded())
    assert not anchors.ready()


def test_learned_anchors_move_by_their_gradient_alone():
    anchors, z = LearnedAnchors(COUNT, WIDTH, "dot", 1.0).double(), molecules()
    before = anchors.vectors.detach().clone()
    activation, read = anchors(z)
    anchors.follow(activation.detach().exp(), z, z, seeded())
    assert anchors.ready()
    assert torch.equal(anchors.vectors, before)
    read.square().mean().backward()
    assert anchors.vectors.grad.abs().sum() > 0


def test_use_is_measured_from_the_best_to_the_worst():
    one_each = torch.eye(COUNT).repeat(3, 1)
    alike = torch.full((12, COUNT), 1 / COUNT)
    one_for_all = torch.eye(COUNT)[[2] * 12]
    worst = pytest.approx(math.log(COUNT))
    best = pytest.approx(0.0, abs=1e-6)
    assert [usage_loss(a, "entropy").item() for a in (one_each, alike, one_for_all)] == [best, best, worst]
    assert [usage_loss(a, "information").item() for a in (one_each, alike, one_for_all)] == [best, worst, worst]
    activation = torch.softmax(torch.randn(12, COUNT, generator=seeded()), 1).double()
    joint = activation.numpy() / 12
    independent = np.outer(np.full(12, 1 / 12), joint.sum(0))
    information = (joint * np.log(joint / independent)).sum()
    assert usage_loss(activation, "information").item() == pytest.approx(math.log(COUNT) - information)
    assert (entropy_of_mean(activation) - mean_entropy(activation)).item() == pytest.approx(information)
