"""Contrastive losses against their formulas written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from molstream.training.objectives.contrastive import CONTRASTIVE, ebm_nce, ebm_nce_shift, info_nce
from tests.support.molecules import seeded


def rows(count=40, width=8, scale=1.0):
    generator = seeded()
    return (torch.randn(count, width, generator=generator, dtype=torch.float64) * scale for _ in range(2))


def test_ebm_nce_is_the_formula():
    x, y = rows(scale=0.3)
    loss, accuracy = ebm_nce(x, y, 0.1, seeded(3))
    draws = seeded(3)
    terms, hits = [], []
    for a, b in ((x, y), (y, x)):
        permutation = torch.randperm(len(x), generator=draws)
        positive = torch.stack([a[i] @ b[i] / 0.1 for i in range(len(x))])
        negative = torch.stack([a[i] @ b[permutation[i]] / 0.1 for i in range(len(x))])
        terms.append(-torch.sigmoid(positive).log().mean() - (1 - torch.sigmoid(negative)).log().mean())
        hits.append(((positive > 0).double().mean() + (negative < 0).double().mean()) / 2)
    torch.testing.assert_close(loss, torch.stack(terms).mean(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(accuracy.double(), torch.stack(hits).mean(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_negatives", [1, 3])
def test_shifted_negatives_are_the_formula(num_negatives):
    x, y = rows(count=7, scale=0.3)
    loss, accuracy = ebm_nce_shift(x, y, 0.1, seeded(), num_negatives)
    m, terms, hits = len(x), [], []
    for a, b in ((x, y), (y, x)):
        positive = torch.stack([a[i] @ b[i] / 0.1 for i in range(m)])
        negative = torch.stack([a[i] @ b[(i + k) % m] / 0.1 for i in range(m) for k in range(1, num_negatives + 1)])
        one, zero = torch.ones_like(positive), torch.zeros_like(negative)
        bce = F.binary_cross_entropy_with_logits
        terms.append(bce(positive, one) + num_negatives * bce(negative, zero))
        hits.append(((positive > 0).double().mean() + (negative < 0).double().mean()) / 2)
    torch.testing.assert_close(loss, torch.stack(terms).mean(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(accuracy.double(), torch.stack(hits).mean(), rtol=1e-6, atol=1e-6)


def test_more_random_negatives_add_their_terms():
    x, y = rows(scale=0.3)
    positive = F.softplus(-(x * y).sum(1) / 0.1).mean()
    draws = seeded(3)
    terms = [ebm_nce(x, y, 0.1, draws)[0] - positive for _ in range(3)]
    torch.testing.assert_close(ebm_nce(x, y, 0.1, seeded(3), 3)[0], positive + sum(terms))


def test_info_nce_is_cross_entropy_with_diagonal_targets():
    x, y = rows()
    loss, accuracy = info_nce(x, y, 0.5, seeded())
    logits, target = x @ y.T / 0.5, torch.arange(len(x))
    expected = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    hits = torch.cat([logits.argmax(1) == target, logits.argmax(0) == target]).float().mean()
    torch.testing.assert_close(accuracy, hits)


def test_start_values():
    x, y = rows(scale=1e-3)
    assert ebm_nce(x, y, 0.1, seeded())[0].item() == pytest.approx(2 * math.log(2), abs=1e-3)
    assert info_nce(x, y, 0.1, seeded())[0].item() == pytest.approx(math.log(40), abs=1e-3)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_matching_rows_are_better_than_others(name):
    x, _ = rows(width=64)
    loss, accuracy = CONTRASTIVE[name](x, x, 0.1, seeded())
    worse, _ = CONTRASTIVE[name](x, x.roll(1, 0), 0.1, seeded())
    assert loss < worse
    assert accuracy > 0.6


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_no_row_gives_zero_with_a_gradient(name):
    x, y = torch.zeros(0, 8, requires_grad=True), torch.zeros(0, 8, requires_grad=True)
    loss, accuracy = CONTRASTIVE[name](x, y, 0.1, seeded())
    loss.backward()
    assert loss.item() == accuracy.item() == 0.0
    assert x.grad is not None
    assert y.grad is not None


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_half_precision_representations_are_compared_in_float32(name):
    x, y = (part.bfloat16() for part in rows())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = CONTRASTIVE[name](x, y, 0.1, seeded())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, CONTRASTIVE[name](x.float(), y.float(), 0.1, seeded())[0])
