"""A loss of the global batch: the gradient of plain PyTorch on all lanes at once, whatever the number of processes."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from molstream.training.checkpoint.format import KINDS, load_checkpoint, name_of
from tests.support.engine_job import LANES
from tests.support.global_job import QUEUE, STEPS, WEIGHT, WIDTH, Network, inputs_of, seeded
from tests.support.processes import run_ranks


def train(world_size, source, target, **options):
    """Losses of all lanes, contrast and gradient norm, one row per step; ``target`` gets a checkpoint."""
    run_ranks(world_size, ["-m", "tests.support.global_job", json.dumps(options), str(source), str(target)])
    return np.array(json.loads((target / "rows.json").read_text()))


def plain_pytorch(steps):
    """The same training on the joined batch of all lanes, by autograd alone; rows, weights and the queue."""
    torch.manual_seed(0)
    module = Network()
    encoder, part = module.encoders.encoder_2d, module.objective.parts["contrast"]
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    queue, rows = torch.ones(QUEUE, WIDTH), []
    for step in range(steps):
        inputs = [inputs_of(step, lane) for lane in range(LANES)]
        batch = torch.cat([x for x, _ in inputs])
        h = encoder(batch)
        keep = torch.cat([torch.rand(len(x), WIDTH, generator=draws) >= 0.2 for x, draws in inputs])
        x = torch.tanh(part.head(h)) * keep / 0.8
        contrast = F.cross_entropy(part.project(x) @ part.other(h).T, torch.arange(len(x)))
        centre = (queue + torch.randn(QUEUE, WIDTH, generator=seeded(step, LANES))).mean(0)
        whole = contrast + 2.0 * step / STEPS * (x.mean(0) - centre).square().sum()
        local = 0.1 * x.square().view(LANES, -1).mean(1)
        optimizer.zero_grad()
        (WEIGHT * (local.mean() + whole)).backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        queue = torch.cat([x.detach()[batch[:, 0].argmax()].unsqueeze(0), queue])[:QUEUE]
        rows.append([*(WEIGHT * (local + whole)).tolist(), contrast.item(), norm.item()])
    return np.array(rows), {name: p.detach() for name, p in module.named_parameters()}, queue


def assert_is_plain_pytorch(rows, checkpoint):
    expected, weights, queue = plain_pytorch(STEPS)
    np.testing.assert_allclose(rows, expected, rtol=1e-5)
    found = load_checkpoint(checkpoint / name_of(STEPS)).weights
    torch.testing.assert_close(found["objective.contrast.queue"], queue)
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-6)


def test_the_gradient_of_two_processes_is_that_of_the_joined_batch(tmp_path):
    assert_is_plain_pytorch(train(2, "-", tmp_path / "two", stop=STEPS, zero_stage=3), tmp_path / "two")


@pytest.mark.slow
def test_any_number_of_processes_at_any_stage_gives_one_curve(tmp_path):
    whole = train(1, "-", tmp_path / "1-1", stop=STEPS)
    assert_is_plain_pytorch(whole, tmp_path / "1-1")
    last = load_checkpoint(tmp_path / "1-1" / name_of(STEPS))
    for world_size, stage in ((1, 3), (2, 0), (2, 2), (4, 1), (4, 3)):
        target = tmp_path / f"{world_size}-{stage}"
        np.testing.assert_array_equal(train(world_size, "-", target, stop=STEPS, zero_stage=stage), whole)
        assert_same(load_checkpoint(target / name_of(STEPS)), last)
    train(4, "-", tmp_path / "half", stop=STEPS // 2, zero_stage=1)
    rows = train(2, tmp_path / "half", tmp_path / "rest", start=STEPS // 2, stop=STEPS, zero_stage=3)
    np.testing.assert_array_equal(rows, whole[STEPS // 2 :])
    assert_same(load_checkpoint(tmp_path / "rest" / name_of(STEPS)), last)


def assert_same(one, two):
    """Two checkpoints hold the same numbers, bit for bit."""
    for kind in KINDS:
        first, second = getattr(one, kind), getattr(two, kind)
        assert first.keys() == second.keys()
        for name in first:
            assert torch.equal(first[name], second[name]), (kind, name)
