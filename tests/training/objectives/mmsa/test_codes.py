"""Codes of modalities: the losses against loops and all permutations, what is absent, and what keeps them apart."""

import itertools

import numpy as np
import pytest
import torch

from molstream.training.objectives.mmsa.codes import AutoEncoders, alignment_losses, contrast, kept, unified
from tests.support.molecules import seeded

WIDTHS = {"2d": 5, "3d": 7, "image": 4}


def drawn(count=6, absent=False, dtype=torch.float64, widths=WIDTHS):
    """Encoders with random weights, vectors of molecules, and which modalities these have: always the first one."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        encoders = AutoEncoders(widths, 11, 8).to(dtype)
        vectors = [torch.randn(count, width, dtype=dtype, requires_grad=True) for width in widths.values()]
        present = torch.ones(count, len(widths), dtype=torch.bool)
        if absent:
            present[:, 1:] = torch.rand(count, 2) < 0.5
    return encoders, vectors, present


def by_hand(encoders, vectors):
    """x and c of every modality [g, M, ...], and D_m(c_m') [g, M, M, f], in numpy."""
    weights = [{name: p.detach().numpy() for name, p in encoder.named_parameters()} for encoder in encoders.of.values()]
    features, codes = [], []
    for w, rows in zip(weights, vectors, strict=True):
        x = np.tanh(rows.detach().numpy() @ w["project.weight"].T + w["project.bias"])
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        features.append(x)
        codes.append(np.tanh(x @ w["encode.weight"].T + w["encode.bias"]))
    decoded = [[c @ w["decode.weight"].T + w["decode.bias"] for c in codes] for w in weights]
    return np.stack(features, 1), np.stack(codes, 1), np.stack([np.stack(row, 1) for row in decoded], 1)


@pytest.mark.parametrize("absent", [False, True])
def test_losses_are_means_over_what_is_present(absent):
    encoders, vectors, present = drawn(absent=absent)
    codes = encoders(vectors, present)
    found = alignment_losses(encoders, codes)
    x, c, decoded = by_hand(encoders, vectors)
    np.testing.assert_allclose(codes.x.detach(), x)
    np.testing.assert_allclose(codes.c.detach(), c)
    expected = {name: [] for name in found}
    for i, has in enumerate(present.numpy()):
        own = np.flatnonzero(has)
        expected["reconstruction"].append(np.mean([((x[i, m] - decoded[i, m, m]) ** 2).mean() for m in own]))
        pairs = [((x[i, m] - decoded[i, m, n]) ** 2).mean() for m in own for n in own]
        expected["cross_reconstruction"].append(np.mean(pairs))
        apart = [((c[i, m] - c[i, n]) ** 2).mean() for m, n in itertools.combinations(own, 2)]
        expected["homogeneity"] += [np.mean(apart)] if apart else []
    for name, values in expected.items():
        assert found[name].item() == pytest.approx(np.mean(values), rel=1e-9), name


def test_cross_reconstruction_is_the_mean_over_all_permutations():
    """HGM2R decodes the code of a modality that a random permutation chooses."""
    encoders, vectors, present = drawn()
    x, _, decoded = by_hand(encoders, vectors)
    modalities = np.arange(3)
    losses = [
        np.mean([((x[:, m] - decoded[:, m, n]) ** 2).mean() for m, n in zip(modalities, permutation)])
        for permutation in itertools.permutations(modalities)
    ]
    assert len(losses) == 6
    found = alignment_losses(encoders, encoders(vectors, present))["cross_reconstruction"]
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-9)


@pytest.mark.parametrize("absent", [False, True])
def test_the_contrast_is_info_nce_of_cosines_over_pairs_of_modalities(absent):
    _, _, present = drawn(absent=absent)
    c = torch.randn(6, 3, 8, dtype=torch.float64, generator=seeded())
    unit = c.numpy() / np.linalg.norm(c.numpy(), axis=2, keepdims=True)
    losses = []
    for a, b in itertools.combinations(range(3), 2):
        rows = np.flatnonzero(present[:, a] & present[:, b])
        cosine = np.exp(unit[rows, a] @ unit[rows, b].T / 0.1)
        own = np.diagonal(cosine)
        losses.append(-0.5 * np.mean(np.log(own / cosine.sum(1)) + np.log(own / cosine.sum(0))) if len(rows) else 0.0)
    assert contrast(c, present, 0.1)[0].item() == pytest.approx(np.mean(losses), rel=1e-9)


def test_what_is_absent_gets_no_gradient_and_the_losses_are_finite():
    encoders, vectors, present = drawn()
    present[2, 1] = present[4, 1] = present[4, 2] = False
    present[:, 0] = True
    codes = encoders(vectors, present)
    losses = [*alignment_losses(encoders, codes).values(), contrast(codes.c, present, 0.1)[0]]
    total = torch.stack([*losses, unified(codes.c, present).square().mean()]).sum()
    total.backward()
    assert total.isfinite()
    for m, rows in enumerate(vectors):
        assert not rows.grad[~present[:, m]].any()
        assert rows.grad[present[:, m]].any(1).all()


def test_a_modality_that_no_molecule_has_gives_zero_gradients():
    encoders, vectors, present = drawn()
    present[:, 1:] = False
    codes = encoders(vectors, present)
    losses = [*alignment_losses(encoders, codes).values(), contrast(codes.c, present, 0.1)[0]]
    torch.stack(losses).sum().backward()
    for name in ("3d", "image"):
        assert all(p.grad is not None and not p.grad.any() for p in encoders.of[name].parameters())


def test_modalities_are_dropped_by_chance_and_one_is_always_kept():
    present = torch.tensor([[True, True, True], [True, False, True], [True, False, False]]).repeat(20_000, 1)
    found = kept(present, 0.8, seeded())
    assert not (found & ~present).any()
    assert found.any(1).all()
    assert torch.equal(found, kept(present, 0.8, seeded()))
    rate = found.view(-1, 3, 3).double().mean(0)
    # Of M present ones, all are below the probability, or the smallest draw is kept: p + (1 - p)^M / M.
    np.testing.assert_allclose(rate[0], 0.8 + 0.2**3 / 3, atol=0.01)
    np.testing.assert_allclose(rate[1, [0, 2]], 0.8 + 0.2**2 / 2, atol=0.01)
    assert rate[2, 0] == 1.0
    c = torch.randn(3, 3, 4, generator=seeded())
    expected = torch.stack([c[0].mean(0), c[1, [0, 2]].mean(0), c[2, 0]])
    torch.testing.assert_close(unified(c, present[:3]), expected)


def trained(steps, gradient_of_target):
    """Standard deviation of codes over a batch after steps of the alignment losses on random vectors."""
    encoders, vectors, present = drawn(16, dtype=torch.float32, widths={"2d": 5, "3d": 7})
    vectors = [rows.detach() for rows in vectors]
    optimizer = torch.optim.Adam(encoders.parameters(), lr=2e-3, fused=True)
    for _ in range(steps):
        codes = encoders(vectors, present)
        losses = alignment_losses(encoders, codes, codes.x if gradient_of_target else None)
        total = 0.6 * losses["homogeneity"] + 0.2 * (losses["reconstruction"] + losses["cross_reconstruction"])
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return encoders(vectors, present).c.std(0).mean().item()


def test_codes_collapse_if_what_is_reconstructed_has_a_gradient():
    assert trained(2_000, gradient_of_target=False) > 0.3
    assert trained(1_000, gradient_of_target=True) < 0.1
