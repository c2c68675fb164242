"""Diagnostics: measures against closed forms, the objectives' terms against autograd, and the command."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from molstream.errors import ConfigError, DataError
from molstream.pipeline.order.mixture import Mixture
from molstream.pipeline.shards.reader import ShardDataset
from molstream.randomness import keyed_seed
from molstream.training.evaluation.diagnose import require_targets
from molstream.training.evaluation.diagnostics import (
    alignment,
    by_decile,
    diagnose,
    effective_rank,
    gradient_norms,
    information_bound,
    require_comparable,
    uniformity,
)
from molstream.training.module import build_module
from tests.support.datasets import molstream
from tests.support.molecules import DRUGS, molecule_batch, objective_config, seeded, tiny_model
from tests.support.samples import varied, write_dataset

BRANCHES = ("contrast", "2D to 3D", "3D to 2D")
COEFFICIENTS = {
    "moleculesde_paper": ("contrastive_coefficient", "position_coefficient", "graph_coefficient"),
    "moleculesde": ("contrastive_coefficient", "position_coefficient", "bond_coefficient"),
}
"""Keys of the weights of :data:`BRANCHES`."""


def build(name, weights=(2.0, 3.0, 0.5)):
    """The tiny module in evaluation mode, with these weights of its branches."""
    config = objective_config(name)
    values = replace(getattr(config, name), **dict(zip(COEFFICIENTS[name], weights, strict=True)))
    module = build_module(tiny_model(name), replace(config, **{name: values}), 0)
    for number, (parameter_name, parameter) in enumerate(module.named_parameters()):
        if "modulation" in parameter_name:  # conditioned blocks start as the identity, without gradients
            torch.nn.init.normal_(parameter, std=0.05, generator=seeded(number))
    return module.eval()


def test_alignment_is_the_squared_distance_on_the_sphere():
    x = torch.randn(20, 6, generator=seeded())
    turned = torch.stack([-x[:, 1], x[:, 0], -x[:, 3], x[:, 2], -x[:, 5], x[:, 4]], dim=1)
    for y, expected in ((3.0 * x, 0.0), (turned, 2.0), (-x, 4.0)):
        assert alignment(x, y) == pytest.approx(expected, abs=1e-5)


def test_uniformity_of_known_arrangements():
    assert uniformity(5.0 * torch.eye(7)) == pytest.approx(-4.0)  # all at squared distance 2
    assert uniformity(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(-8.0)
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0.0, abs=1e-5)
    circle = 2.0 * math.pi * torch.arange(400) / 400
    # The mean of exp(-2 |u - v|^2) over the circle is exp(-4) I0(4); 400 points miss the pairs with themselves.
    whole = math.exp(-4.0) * torch.special.i0(torch.tensor(4.0)).item()
    expected = math.log((400 * whole - 1.0) / 399)
    assert uniformity(torch.stack([circle.cos(), circle.sin()], dim=1)) == pytest.approx(expected, abs=1e-4)


def test_effective_rank_is_that_of_the_singular_values():
    left = torch.randn(30, 4, generator=seeded(), dtype=torch.float64)
    left = torch.linalg.qr(left - left.mean(0))[0]  # columns with mean zero, orthonormal
    right = torch.linalg.qr(torch.randn(9, 4, generator=seeded(1), dtype=torch.float64))[0]
    for values, expected in (
        ([2.0, 2.0, 2.0, 2.0], 4.0),
        ([5.0, 0.0, 0.0, 0.0], 1.0),
        ([3.0, 1.0, 0.0, 0.0], math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
    ):
        x = left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.T
        assert effective_rank(x + 10.0) == pytest.approx(expected, rel=1e-6)
    assert effective_rank(torch.ones(5, 3)) == pytest.approx(1.0)


def test_the_information_bound_of_known_representations():
    x = torch.eye(8)
    expected = math.log(8) - math.log(1.0 + 7.0 * math.exp(-1.0 / 0.2))
    assert information_bound(x, 4.0 * x, 0.2) == pytest.approx(expected, rel=1e-5)
    assert information_bound(torch.ones(8, 8), x, 0.2) == pytest.approx(0.0, abs=1e-6)


def test_deciles_are_tenths_of_the_time():
    losses, time = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0.05, 0.31, 0.39, 1.0])
    found = by_decile(losses, time)
    assert [part.molecules for part in found] == [1, 0, 0, 2, 0, 0, 0, 0, 0, 1]
    assert [part.loss for part in found] == [1.0, None, None, 3.0, None, None, None, None, None, 8.0]


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_deciles_sum_to_the_whole_loss(name):
    module = build(name)
    batch = molecule_batch(DRUGS[:12], [True, True, False] * 4)
    found = diagnose(module, [batch], seed=3)
    metrics = module(batch, seeded(keyed_seed(3, 0))).metrics
    assert found.metrics == pytest.approx({key: value.item() for key, value in metrics.items()}, rel=1e-6)
    assert len(found.deciles) >= 2
    for key, parts in found.deciles.items():
        assert sum(part.molecules for part in parts) == 8
        total = sum(part.molecules * part.loss for part in parts if part.loss is not None)
        assert total / 8 == pytest.approx(metrics[key].item(), rel=1e-5), key


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_gradient_norms_are_those_of_the_loss_with_one_branch_alone(name):
    weights = (2.0, 3.0, 0.5)
    batch = molecule_batch(DRUGS[:6])
    module = build(name, weights)
    found = gradient_norms(module.objective.terms(batch, module.encoders, seeded(5)), module.encoders)
    assert tuple(found) == BRANCHES
    for number, branch in enumerate(BRANCHES):
        # Nearly nothing of the others: a term without weight has no networks.
        alone = build(name, [weight if number == k else 1e-12 for k, weight in enumerate(weights)])
        alone(batch, seeded(5)).loss.backward()
        for encoder, norm in found[branch].items():
            gradients = [p.grad.flatten() for p in alone.encoders.get_submodule(encoder).parameters()]
            assert norm == pytest.approx(torch.cat(gradients).norm().item(), rel=1e-4, abs=1e-9), (branch, encoder)
    assert found["2D to 3D"]["encoder_3d"] == found["3D to 2D"]["encoder_2d"] == 0.0
    assert min(found["contrast"].values()) > 0.0


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_measures_are_of_pooled_representations_of_molecules_with_positions(name):
    module = build(name)
    has_pos = [True] * 4 + [False] * 2
    batches = [molecule_batch(DRUGS[:6], has_pos), molecule_batch(DRUGS[6:7]), molecule_batch(DRUGS[7:12])]
    found = diagnose(module, batches, seed=0)
    assert found.molecules == 4 + 5  # one molecule alone compares with none
    # The published contrast compares atoms, ours molecules.
    atoms = [int((batch.has_pos[batch.batch]).sum()) for batch in (batches[0], batches[2])]
    compared = atoms if name == "moleculesde_paper" else [4, 5]
    assert found.largest_bound == pytest.approx(np.mean(np.log(compared)))
    pooled = []
    for batch in (batches[0], batches[2]):
        nodes = module.encoders.encoder_2d(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
        rows = [nodes[batch.batch == g].mean(0) for g in range(batch.num_graphs) if batch.has_pos[g]]
        pooled.append(torch.stack(rows).detach())
    assert found.effective_rank["2D"] == pytest.approx(effective_rank(torch.cat(pooled)), rel=1e-4)
    assert found.uniformity["2D"] == pytest.approx(uniformity(torch.cat(pooled)), rel=1e-4, abs=1e-5)
    assert found.information_bound <= found.largest_bound


def test_a_contrast_that_is_used_up_is_said():
    """The bound is that of the rows that are compared: here of projections."""
    module = build("moleculesde")
    batch = molecule_batch(DRUGS[:8])
    assert diagnose(module, [batch], seed=0).warnings == []
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    for step in range(150):
        optimizer.zero_grad()
        module.objective.terms(batch, module.encoders, seeded(step))["contrast"].loss.backward()
        optimizer.step()
    found = diagnose(module, [batch], seed=0)
    assert 0.9 * math.log(8) < found.information_bound <= found.largest_bound == pytest.approx(math.log(8))
    assert found.warnings
    assert "the contrast is used up" in found.warnings[0]


@pytest.mark.parametrize("changes", [{"geometry_transformer": None}, {"graph_transformer": {"hidden": 32}}])
def test_encoders_that_cannot_be_compared_are_named(changes):
    with pytest.raises(ConfigError, match="this run has graph_transformer of width"):
        require_comparable(replace(tiny_model("moleculesde"), **changes))


def test_without_conformers_there_is_nothing_to_diagnose():
    with pytest.raises(DataError, match="conformer"):
        diagnose(build("moleculesde_paper"), [molecule_batch(DRUGS[:3], [False] * 3)], seed=0)


def test_a_dataset_with_other_targets_than_the_run_learned_is_refused(tmp_path):
    data = Mixture([ShardDataset(write_dataset(tmp_path / "learned", [varied(20)]))])
    record = {**data.record(), "versions": {"rdkit": "1"}, "config": {"featurize": {}}}
    (tmp_path / "dataset.json").write_text(json.dumps(record))
    require_targets(str(tmp_path), data)
    other = Mixture([ShardDataset(write_dataset(tmp_path / "other", [varied(20)], target_names=("b", "a")))])
    with pytest.raises(
        ConfigError, match=r"other has the targets b, a, .* was trained on a, b\. .*target_columns=\[a,b\]"
    ):
        require_targets(str(tmp_path), other)


@pytest.mark.slow
def test_the_command_writes_into_the_run_and_the_report_shows_it(dataset, small_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    result = molstream("diagnose", f"run_dir={run}", "batches=3", "batch_size=8", "device=cpu")
    assert str(run / "diagnostics.json") in result.stdout
    found = json.loads((run / "diagnostics.json").read_text())
    assert found["molecules"] == 24
    assert f"{found['alignment']:.4f}" in result.stdout
    assert "0.9 to 1.0" in result.stdout
    assert set(found["gradient_norm"]) == set(BRANCHES)
    molstream("report", f"run_dir={run}")
    page = (run / "report.html").read_text()
    assert f"{found['effective_rank']['3D']:.1f}" in page
    assert 'alt="denoising losses by diffusion time"' in page
    for argument, message in (("batches=0", "batches=0"), ("batch_size=4000", "fewer than one global batch")):
        refused = molstream("diagnose", f"run_dir={run}", argument, check=False)
        assert refused.returncode == 2
        assert message in refused.stderr
