"""Regression of descriptors: the loss by hand, masks, and a dataset without them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from molstream.errors import ConfigError
from molstream.training.data.labels import Labels, LabelTable
from molstream.training.models.encoders import Encoders
from molstream.training.objectives.config import DescriptorsConfig
from molstream.training.objectives.descriptors import Descriptors
from tests.support.molecules import DRUGS, described, model_config, molecule_batch, seeded

MODEL = model_config("tiny")
BATCH, LABELS = described(molecule_batch(DRUGS[:8]), DRUGS[:8])


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def build(labels=LABELS, model=MODEL, **options):
    return Descriptors(DescriptorsConfig(**options), model, labels), Encoders(model)


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
