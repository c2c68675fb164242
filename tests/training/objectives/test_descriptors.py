"""Regression of descriptors: normal scores against scipy, masks, and what is left out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm, rankdata

from molstream.errors import ConfigError
from molstream.training.data.labels import Labels, LabelTable
from molstream.training.models.encoders import Encoders
from molstream.training.objectives.config import DescriptorsConfig
from molstream.training.objectives.descriptors import Descriptors, NormalScores, Winsorised
from tests.support.molecules import DRUGS, described, model_config, molecule_batch, seeded, table_of

MODEL = model_config("tiny")
NUM_QUANTILES = 129
BATCH, LABELS = described(molecule_batch(DRUGS[:8]), DRUGS[:8])


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def build(labels=LABELS, model=MODEL, **options):
    return Descriptors(DescriptorsConfig(**options), model, labels), Encoders(model)


def columns() -> np.ndarray:
    """float32 [129, 4]: as many values as there are quantiles, some of them equal, some missing in the last column."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.3, NUM_QUANTILES)
    found = np.stack([rng.normal(size=NUM_QUANTILES), counts, rng.integers(0, 2, NUM_QUANTILES)], 1)
    return np.concatenate([found, np.exp(3 * found[:, :1])], 1).astype(np.float32)


def test_normal_scores_are_those_of_mean_ranks():
    values = columns()
    found, known = NormalScores(table_of("abcd", values))(torch.from_numpy(values))
    share = (rankdata(values, axis=0) - 1) / (NUM_QUANTILES - 1)
    expected = norm.ppf(share.clip(0.5 / NUM_QUANTILES, 1 - 0.5 / NUM_QUANTILES))
    assert known.all()
    np.testing.assert_allclose(found, expected, atol=2e-5)
    # Ranks do not depend on the scale of a column.
    np.testing.assert_allclose(found[:, 0], found[:, 3], atol=1e-4)


def test_scores_between_and_beyond_quantiles_are_monotonous_and_bounded():
    values = columns()[:, :1]
    normalize = NormalScores(table_of("a", values))
    line = torch.linspace(-100, 100, 4001).unsqueeze(1)
    found, _ = normalize(line)
    assert (found.diff(dim=0) >= 0).all()
    assert found[0] == -found[-1] == pytest.approx(-2.66, abs=0.01)
    inside = torch.linspace(-1, 1, 201).unsqueeze(1)
    assert (normalize(inside)[0].diff(dim=0) > 0).all()


@pytest.mark.parametrize("kind", [NormalScores, Winsorised])
def test_missing_and_constant_labels_are_not_known(kind):
    values = columns()
    values[:5, 0] = np.nan
    values[:, 2] = 1.0
    values = np.concatenate([values, np.full((NUM_QUANTILES, 1), np.nan, np.float32)], 1)
    table = table_of("abcde", values)
    values[7, 1] = np.inf
    values[:, 4] = 1.0
    found, known = kind(table)(torch.from_numpy(values))
    assert known[:, [2, 4]].sum() == 0
    assert not known[:5, 0].any()
    assert not known[7, 1]
    assert known.sum() == 3 * NUM_QUANTILES - 5 - 1
    assert found.isfinite().all()
    assert (found[~known] == 0).all()


def test_winsorised_values_are_cut_off_at_six_deviations():
    values = np.concatenate([np.zeros(998), [1e6, 1.0]]).astype(np.float32)[:, None]
    found, _ = Winsorised(table_of("a", values))(torch.from_numpy(values))
    assert found.max() == 6.0
    expected = (values - values.mean(dtype=np.float64)) / values.std(dtype=np.float64)
    np.testing.assert_allclose(found, expected.clip(-6, 6), rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_mean_over_molecules_of_the_mean_over_known_descriptors():
    objective, encoders = build()
    batch = replace(BATCH, descriptors=BATCH.descriptors.clone())
    batch.descriptors[2, 10:] = torch.nan
    batch.descriptors[3] = torch.nan
    batch = replace(batch, has_pos=torch.tensor([True] * 6 + [False] * 2))
    terms = objective.terms(batch, encoders, seeded())
    target, known = (value.numpy() for value in objective.normalize(batch.descriptors))
    for modality, counted in (("2d", [0, 1, 2, 4, 5, 6, 7]), ("3d", [0, 1, 2, 4, 5])):
        predicted = objective.heads[modality](encoders.molecules(modality, batch)).detach().numpy()
        rows = [np.mean((predicted[k] - target[k])[known[k]] ** 2) for k in counted]
        term = terms[f"descriptors {modality.upper()}"]
        assert term.loss.item() == pytest.approx(np.mean(rows), rel=1e-5)
        assert term.coefficient == 0.5
        assert term.metrics == {f"{modality}_loss": term.loss}


def test_heads_start_by_predicting_zero():
    objective, encoders = build()
    target, known = objective.normalize(BATCH.descriptors)
    for term in objective.terms(BATCH, encoders, seeded()).values():
        assert term.loss.item() == pytest.approx(float((target.square().sum(1) / known.sum(1)).mean()), rel=1e-5)


def test_one_encoder_is_enough():
    objective, encoders = build(model=replace(MODEL, geometry_transformer=None))
    terms = objective.terms(BATCH, encoders, seeded())
    assert list(terms) == ["descriptors 2D"]
    assert terms["descriptors 2D"].coefficient == 1.0
    assert objective.modalities == {"2d"}


def test_a_dataset_without_descriptors_is_refused():
    with pytest.raises(ConfigError, match=r"objective=descriptors: the dataset has no descriptors.*rdkit2d"):
        build(Labels(LabelTable.of({})))


def test_a_batch_is_learned():
    objective, encoders = build(model=replace(MODEL, geometry_transformer=None))
    optimizer = torch.optim.AdamW([*objective.parameters(), *encoders.parameters()], 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = objective.terms(BATCH, encoders, seeded())["descriptors 2D"].loss
        loss.backward()
        optimizer.step()
    assert loss < 0.02
