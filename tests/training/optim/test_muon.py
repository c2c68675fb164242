"""Muon: its update against a plain one in fp64; the same bits on any number of processes, and after a restore."""

import numpy as np
import pytest
import torch
from torch import nn

from molstream.training.checkpoint.format import load_checkpoint, name_of
from molstream.training.optim.config import OptimConfig
from molstream.training.optim.muon import MuonAdamW, is_muon, orthogonalized
from molstream.training.optim.optimizer import build_optimizer
from tests.support.engine_job import LANES, MICRO_BATCH, Network
from tests.training.engine.test_engine import assert_equal_state, train


@pytest.fixture(scope="module")
def muon_steps(tmp_path_factory):
    """State after six of ten steps, and all rows of the uninterrupted run (one process, ZeRO 1)."""
    folder = tmp_path_factory.mktemp("muon")
    train(1, folder, folder / "six", stop=6, muon=True)
    whole = train(1, folder, folder / "ten", stop=10, muon=True)
    return folder, whole


def plain_newton_schulz(matrix):
    """Jordan et al. 2024, as written there, in fp64 and without its transposition."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
    return x


@pytest.mark.parametrize("shape", [(24, 24), (40, 16), (16, 40)])
def test_the_update_is_the_plain_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalized(matrix, torch.float32) / (0.2 * max(shape) ** 0.5)
    torch.testing.assert_close(found, plain_newton_schulz(matrix).float(), atol=1e-5, rtol=1e-4)
    singular = torch.linalg.svdvals(found)
    assert singular.min() > 0.5
    assert singular.max() < 1.3
    half = orthogonalized(matrix, torch.bfloat16) / (0.2 * max(shape) ** 0.5)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, found, atol=0.03, rtol=0)


def test_a_run_is_that_of_plain_pytorch(muon_steps):
    """Mean gradient over lanes, clipping, Nesterov's momentum, orthogonalized; AdamW for the rest."""
    torch.manual_seed(0)
    module = Network()
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = torch.optim.AdamW([p for p in module.parameters() if p.ndim == 1], lr=5e-3, weight_decay=0.0)
    momenta = [torch.zeros_like(p) for p in matrices]
    rows = []
    for step in range(10):
        losses = []
        for lane in range(LANES):
            generator = torch.Generator().manual_seed(1000 * step + lane)
            x, y = torch.randn(MICRO_BATCH, 7, generator=generator), torch.randn(MICRO_BATCH, 3, generator=generator)
            losses.append(module(x, y).loss)
        module.zero_grad()
        torch.stack(losses).mean().backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        vectors.step()
        with torch.no_grad():
            for matrix, momentum in zip(matrices, momenta):
                momentum.mul_(0.95).add_(matrix.grad, alpha=0.05)
                update = plain_newton_schulz(0.05 * matrix.grad + 0.95 * momentum)
                matrix.mul_(1 - 1e-2 * 0.1)
                matrix.sub_(1e-2 * 0.2 * max(matrix.shape) ** 0.5 * update)
        rows.append([*[loss.item() for loss in losses], float(norm)])
    np.testing.assert_allclose(muon_steps[1][:, : LANES + 1], rows, rtol=1e-4)


@pytest.mark.slow
def test_other_processes_and_stages_agree_to_the_last_bit(muon_steps, tmp_path):
    folder, whole = muon_steps
    rows = train(2, "-", tmp_path / "two", stop=6, zero_stage=2, muon=True)
    np.testing.assert_array_equal(rows, whole[:6])
    assert_equal_state(folder / "six", tmp_path / "two", 6)
    moments = load_checkpoint(folder / "six" / name_of(6)).moments
    assert moments["momentum.body.first.weight"].shape == (33, 7)
    assert "exp_avg.body.first.weight" not in moments
    assert "exp_avg.body.gain" in moments


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world_size", "stage", "offload"),
    [
        (2, 3, "none"),
        pytest.param(1, 0, "none", marks=pytest.mark.slow),
        pytest.param(4, 1, "none", marks=pytest.mark.slow),
        pytest.param(2, 3, "all", marks=pytest.mark.slow),
    ],
)
def test_a_state_continues_at_any_world_size_and_stage(muon_steps, tmp_path, world_size, stage, offload):
    folder, whole = muon_steps
    options = {"start": 6, "stop": 10, "zero_stage": stage, "offload": offload, "muon": True}
    rows = train(world_size, folder / "six", tmp_path / "on", **options)
    np.testing.assert_array_equal(rows, whole[6:])
    assert_equal_state(folder / "ten", tmp_path / "on", 10)


def test_hidden_matrices_are_muons_and_the_rest_is_adamws():
    module = nn.ModuleDict(
        {
            "embedding": nn.Embedding(50, 32),
            "features_in": nn.Linear(5, 32),
            "hidden": nn.Linear(32, 64),
            "head": nn.Linear(64, 3),
        }
    )
    optimizer, _ = build_optimizer(module, OptimConfig(name="muon"), lambda name: 1.0)
    assert isinstance(optimizer, MuonAdamW)
    [group] = filter(is_muon, optimizer.param_groups)
    assert group["params"] == [module["hidden"].weight]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 7
