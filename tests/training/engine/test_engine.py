"""The engine: one curve at any world size and ZeRO stage, and a state that moves between all of them."""

import json
import math

import numpy as np
import pytest
import torch

from molstream.errors import CheckpointError, ConfigError
from molstream.training.checkpoint.format import KINDS, load_checkpoint, name_of
from molstream.training.checkpoint.load import load_weights
from molstream.training.engine.config import EngineConfig
from molstream.training.engine.progress import EngineProgress
from tests.support.engine_job import LANES, MICRO_BATCH, Network
from tests.support.processes import run_ranks


def train(world_size, source, target, **options):
    """Losses of all lanes, gradient norm and loss scale, one row per step; ``target`` gets a checkpoint."""
    run_ranks(world_size, ["-m", "tests.support.engine_job", json.dumps(options), str(source), str(target)])
    return np.array(json.loads((target / "rows.json").read_text()))


def assert_equal_state(one, two, step):
    """Two checkpoints hold the same numbers, bit for bit."""
    one, two = load_checkpoint(one / name_of(step)), load_checkpoint(two / name_of(step))
    for kind in KINDS:
        first, second = getattr(one, kind), getattr(two, kind)
        assert first
        assert first.keys() == second.keys()
        for name in first:
            assert torch.equal(first[name], second[name]), (kind, name)


@pytest.fixture(scope="module")
def six_steps(tmp_path_factory):
    """State after six of ten steps, and all rows of the uninterrupted run (one process, ZeRO 1)."""
    folder = tmp_path_factory.mktemp("engine")
    train(1, folder, folder / "six", stop=6)
    whole = train(1, folder, folder / "ten", stop=10)
    return folder / "six", whole


def plain_pytorch(steps):
    """The same training in plain PyTorch: the mean gradient over lanes, clipping, AdamW; lane losses and norms."""
    torch.manual_seed(0)
    module = Network()
    groups = [[p for p in module.parameters() if p.ndim > 1], [p for p in module.parameters() if p.ndim == 1]]
    optimizer = torch.optim.AdamW(
        [{"params": g, "weight_decay": d, "lr": lr} for g, d, lr in zip(groups, (0.1, 0.0), (1e-2, 5e-3))]
    )
    rows, average = [], {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
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
        decay = min(0.9, (1 + step + 1) / (10 + step + 1))
        for name, parameter in module.named_parameters():
            average[name].lerp_(parameter.detach(), 1 - decay)
    return np.array(rows), average


def test_curve_and_average_are_those_of_plain_pytorch(six_steps):
    folder, whole = six_steps
    rows, _ = plain_pytorch(10)
    np.testing.assert_allclose(whole[:, : LANES + 1], rows, rtol=2e-6)
    found, (_, expected) = load_checkpoint(folder / name_of(6)).average, plain_pytorch(6)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize(
    ("world_size", "stage"),
    [
        (1, 0),
        pytest.param(1, 1, marks=pytest.mark.slow),
        (2, 3),
        pytest.param(2, 2, marks=pytest.mark.slow),
        pytest.param(4, 3, marks=pytest.mark.slow),
    ],
)
def test_a_state_continues_at_any_world_size_and_stage(six_steps, tmp_path, world_size, stage):
    source, whole = six_steps
    rows = train(world_size, source, tmp_path / "continued", start=6, stop=10, zero_stage=stage)
    np.testing.assert_array_equal(rows, whole[6:])
    assert_equal_state(source.parent / "ten", tmp_path / "continued", 10)


@pytest.mark.parametrize(
    ("world_size", "stage", "offload"),
    [
        (2, 2, "none"),
        (2, 3, "all"),
        pytest.param(2, 1, "optimizer", marks=pytest.mark.slow),
        pytest.param(2, 3, "optimizer", marks=pytest.mark.slow),
        pytest.param(4, 1, "none", marks=pytest.mark.slow),
    ],
)
def test_more_processes_from_the_start_agree_to_the_last_bit(six_steps, tmp_path, world_size, stage, offload):
    source, whole = six_steps
    rows = train(world_size, "-", tmp_path / "other", stop=6, zero_stage=stage, offload=offload)
    np.testing.assert_array_equal(rows, whole[:6])
    assert_equal_state(source, tmp_path / "other", 6)
    # One update per step, however many lanes a process serves.
    assert int(load_checkpoint(source / name_of(6)).weights["body.norm.num_batches_tracked"]) == 6


@pytest.mark.slow
def test_a_checkpoint_of_four_processes_at_zero_2_is_the_same_elsewhere(six_steps, tmp_path):
    source = tmp_path / "four"
    train(4, six_steps[0], source, start=6, stop=8, zero_stage=2)
    for world_size, stage in ((2, 3), (1, 1)):
        target = tmp_path / f"{world_size}"
        # Restored and, without a step, written again.
        train(world_size, source, target, start=8, stop=8, zero_stage=stage)
        assert_equal_state(source, target, 8)


@pytest.mark.parametrize(
    ("precision", "stage", "tolerance"), [("bf16", 1, 2e-2), pytest.param("fp16", 3, 5e-3, marks=pytest.mark.slow)]
)
def test_half_precision_trains_close_to_fp32_and_keeps_fp32_weights(six_steps, tmp_path, precision, stage, tolerance):
    half = train(2, "-", tmp_path / "half", stop=6, zero_stage=stage, precision=precision)[:, : LANES + 1]
    expected = six_steps[1][:6, : LANES + 1]
    assert not np.array_equal(half, expected)
    np.testing.assert_allclose(half, expected, rtol=tolerance)
    weights = load_checkpoint(tmp_path / "half" / name_of(6)).weights
    assert all(weight.dtype in (torch.float32, torch.int64) for weight in weights.values())


@pytest.mark.parametrize("stage", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_step_without_a_finite_gradient_changes_nothing(six_steps, tmp_path, stage):
    source, _ = six_steps
    rows = train(2, source, tmp_path / "poisoned", start=6, stop=7, zero_stage=stage, poisoned=[[6, 3]])
    assert not math.isfinite(rows[0, LANES])
    assert math.isfinite(rows[0, 0])
    before, after = load_checkpoint(source / name_of(6)), load_checkpoint(tmp_path / "poisoned" / name_of(7))
    assert (after.state.step, after.state.optimizer_steps) == (7, 6)
    for kind in KINDS:
        for name, tensor in getattr(before, kind).items():
            assert torch.equal(getattr(after, kind)[name], tensor), name


def test_the_loss_scale_of_fp16_falls_at_once_and_grows_slowly():
    progress = EngineProgress(loss_scale=4.0)
    progress = progress.after(False, True)
    assert progress == EngineProgress(2.0, 0, 0, 0)
    progress = progress.after(False, True)
    assert progress == EngineProgress(1.0, 0, 0, 0)
    assert progress.after(False, True).skipped == 1
    for _ in range(1999):
        progress = progress.after(True, True)
    assert (progress.loss_scale, progress.optimizer_steps) == (1.0, 1999)
    assert progress.after(True, True).loss_scale == 2.0
    assert EngineProgress().after(False, False) == EngineProgress(1.0, 0, 0, 1)
    assert EngineProgress(skipped=3).after(True, False) == EngineProgress(1.0, 1, 1, 0)


def test_unusable_settings_and_weights_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"zero_stage=7: expected at most 3"):
        EngineConfig(zero_stage=7)
    with pytest.raises(ConfigError, match="precision=half: expected one of fp32, bf16, fp16"):
        EngineConfig(precision="half")
    with pytest.raises(ConfigError, match=r"offload=all needs deepspeed.zero_stage=3"):
        EngineConfig(zero_stage=2, offload="all")
    weights = Network().state_dict()
    with pytest.raises(CheckpointError, match=r"missing body.gain"):
        load_weights(Network(), {k: v for k, v in weights.items() if k != "body.gain"})
    with pytest.raises(CheckpointError, match=r"unexpected other.*1 differences"):
        load_weights(Network(), {**weights, "other": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"body.gain has shape \(4,\), the model \(3,\)"):
        load_weights(Network(), {**weights, "body.gain": torch.ones(4)})
