"""Several objectives on the same encoders: one pass of each encoder serves them all."""

import pytest
import torch

from molstream.training.models.encoders import Encoders
from molstream.training.objectives.config import ObjectiveConfig
from molstream.training.objectives.table import build_objective
from tests.support.molecules import DRUGS, described, model_config, molecule_batch, seeded


def test_an_encoder_runs_once_and_learns_from_all_objectives():
    model = model_config("tiny")
    batch, labels = described(molecule_batch(DRUGS[:6]), DRUGS[:6])
    encoders = Encoders(model)
    objective = build_objective(ObjectiveConfig(moleculesde={}, descriptors={}), model, labels)
    for head in objective.parts["descriptors"].heads.values():
        torch.nn.init.normal_(head[-1].weight)
    calls: list[str] = []
    encoders.encoder_2d.register_forward_hook(lambda *_: calls.append("2d"))
    encoders.encoder_3d.register_forward_hook(lambda *_: calls.append("3d"))
    output = objective(batch, encoders, seeded())
    assert sorted(calls) == ["2d", "3d"]
    found = torch.autograd.grad(output.loss, list(encoders.parameters()))
    parts = objective.parts.values()
    apart = sum(part(batch, encoders, seeded()).loss for part in parts)
    expected = torch.autograd.grad(apart, list(encoders.parameters()))
    assert output.loss.item() == pytest.approx(apart.item(), rel=1e-5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
