"""The engine: one curve at any world size and ZeRO stage, and a state that moves between all of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from preprocessing.errors import CheckpointError, ConfigError
from tests.training.engine_job import LANES, MICRO_BATCH, Network
from tests.training.processes import run_ranks
from training.engine import EngineConfig
from training.weights import load_weights


def train(world_size, stage, start, stop, source, target, precision="fp32"):
    """Losses of all lanes and gradient norm, one row per step."""
    arguments = [
        "-m",
        "tests.training.engine_job",
        str(stage),
        precision,
        str(start),
        str(stop),
        str(source),
        str(target),
    ]
    run_ranks(world_size, arguments)
    return np.array(json.loads(Path(f"{target}.json").read_text()))


@pytest.fixture(scope="module")
def six_steps(tmp_path_factory):
    """State after six of ten steps, and the four remaining rows of the uninterrupted run (one process, ZeRO 1)."""
    folder = tmp_path_factory.mktemp("engine")
    train(1, 1, 0, 6, "-", folder / "six")
    whole = train(1, 1, 0, 10, "-", folder / "ten")
    return folder / "six", whole


def plain_pytorch(steps):
    """The same training in plain PyTorch: the mean gradient over lanes, clipping, AdamW; lane losses and norms."""
    torch.manual_seed(0)
    module = Network()
    groups = [[p for p in module.parameters() if p.ndim > 1], [p for p in module.parameters() if p.ndim == 1]]
    optimizer = torch.optim.AdamW(
        [{"params": g, "weight_decay": d, "lr": lr} for g, d, lr in zip(groups, (0.1, 0.0), (1e-2, 5e-3))]
    )
    rows = []
    for step in range(steps):
        losses = []
        for lane in range(LANES):
            generator = torch.Generator().manual_seed(1000 * step + lane)
            x, y = torch.randn(MICRO_BATCH, 7, generator=generator), torch.randn(MICRO_BATCH, 3, generator=generator)
            losses.append(module(x, y).loss)
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        rows.append([*[loss.item() for loss in losses], float(norm)])
    return np.array(rows)


def test_the_curve_is_that_of_plain_pytorch(six_steps):
    np.testing.assert_allclose(six_steps[1], plain_pytorch(10), rtol=2e-6)


@pytest.mark.parametrize(
    ("world_size", "stage"),
    [(1, 0), pytest.param(1, 1, marks=pytest.mark.slow), (2, 0), pytest.param(2, 2, marks=pytest.mark.slow), (4, 1)],
)
def test_a_state_continues_at_any_world_size_and_stage(six_steps, tmp_path, world_size, stage):
    source, whole = six_steps
    np.testing.assert_array_equal(train(world_size, stage, 6, 10, source, tmp_path / "continued"), whole[6:])


def test_two_processes_from_the_start_agree_to_the_last_bit(six_steps, tmp_path):
    source, whole = six_steps
    np.testing.assert_array_equal(train(2, 2, 0, 6, "-", tmp_path / "pair"), whole[:6])
    for kind in ("weights", "moments"):
        one, two = load_file(f"{source}.{kind}"), load_file(f"{tmp_path}/pair.{kind}")
        assert one.keys() == two.keys()
        for name in one:
            assert torch.equal(one[name], two[name]), name
    # One update per step, however many lanes a process serves.
    assert int(one_counter(source)) == int(one_counter(tmp_path / "pair")) == 6


def one_counter(path):
    return load_file(f"{path}.weights")["norm.num_batches_tracked"]


def test_bf16_trains_close_to_fp32_and_keeps_fp32_weights(six_steps, tmp_path):
    half = train(2, 1, 0, 6, "-", tmp_path / "half", precision="bf16")
    assert not np.array_equal(half, six_steps[1][:6])
    np.testing.assert_allclose(half, six_steps[1][:6], rtol=2e-2)
    assert all(w.dtype != torch.bfloat16 for w in load_file(f"{tmp_path}/half.weights").values())


def test_unusable_settings_and_weights_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"zero_stage=7: expected 0, 1 or 2"):
        EngineConfig(zero_stage=7)
    with pytest.raises(ConfigError, match="precision=half"):
        EngineConfig(precision="half")
    weights = Network().state_dict()
    with pytest.raises(CheckpointError, match=r"missing gain"):
        load_weights(Network(), {k: v for k, v in weights.items() if k != "gain"})
    with pytest.raises(CheckpointError, match=r"unexpected other.*1 differences"):
        load_weights(Network(), {**weights, "other": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"gain has shape \(4,\), the model \(3,\)"):
        load_weights(Network(), {**weights, "gain": torch.ones(4)})
