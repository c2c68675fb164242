"""Each patch of DeepSpeed for one of the ZeRO stages: the fault without it, and what is there with it."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from molstream.training.distributed import deepspeed_compat
from tests.support.deepspeed_ranks import APART, OFFLOADED, in_ranks, initialize, join, linear

pytestmark = pytest.mark.slow

# --- ZeRO 1 and 2 ----------------------------------------------------------------------------------------------------


@in_ranks(1)
def test_link_moments():
    join()
    module = linear(4, 4)
    weight = module[0].weight
    engine = initialize(module, 1)
    state = engine.optimizer.optimizer.state
    engine.backward(module(torch.ones(1, 4)).sum())
    engine.step()
    # As a restore does: new tensors in the optimizer's state.
    for master in state:
        state[master] = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(16), "exp_avg_sq": torch.zeros(16)}
    assert deepspeed_compat.read_moment(weight, "exp_avg").count_nonzero() == 16
    deepspeed_compat.write_moment(weight, "exp_avg", torch.ones(4, 4))
    assert all(moments["exp_avg"].count_nonzero() == 0 for moments in state.values())
    deepspeed_compat.link_moments(engine)
    assert deepspeed_compat.read_moment(weight, "exp_avg").count_nonzero() == 0
    value = torch.arange(16.0).view(4, 4)
    deepspeed_compat.write_moment(weight, "exp_avg", value)
    assert torch.equal(deepspeed_compat.read_moment(weight, "exp_avg"), value)
    assert all(torch.equal(moments["exp_avg"], value.flatten()) for moments in state.values())


@in_ranks(1)
def test_write_weight():
    from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param

    join()
    module = linear(4, 4)
    weight = module[0].weight
    initialize(module, 2)
    value = torch.arange(16.0).view(4, 4)
    safe_set_full_fp32_param(weight, value)
    assert not torch.equal(weight, value)
    deepspeed_compat.write_weight(weight, value + 1)
    assert torch.equal(weight, value + 1)
    assert torch.equal(safe_get_full_fp32_param(weight), value + 1)


# --- ZeRO 3 ----------------------------------------------------------------------------------------------------------


@in_ranks(2)
def test_write_partitioned():
    join()
    value = torch.arange(9.0).view(3, 3)
    # With the default threshold so small a weight stays gathered.
    for zero in (APART, {}, {**APART, **OFFLOADED}):
        module = linear(3, 3)
        weight = module[0].weight
        before = weight.detach().clone()
        engine = initialize(module, 3, zero=zero, **deepspeed_compat.corrected_defaults())
        assert torch.equal(deepspeed_compat.read_partitioned(engine, weight, None), before)
        with torch.no_grad():
            engine.optimizer.set_local_hp_param(torch.zeros(5), weight)
            torch.testing.assert_close(engine(torch.eye(3)), before.T)
            deepspeed_compat.write_partitioned(engine, weight, None, value)
            torch.testing.assert_close(engine(torch.eye(3)), value.T)
        assert torch.equal(deepspeed_compat.read_partitioned(engine, weight, None), value)
        deepspeed_compat.set_gradients(engine, lambda parameter: torch.ones(5))
        engine.step()
        deepspeed_compat.write_partitioned(engine, weight, "exp_avg", value)
        assert torch.equal(deepspeed_compat.read_partitioned(engine, weight, "exp_avg"), value)


@in_ranks(2)
def test_what_zero3_makes_of_parameters():
    join()
    module = linear(3, 3, 2)
    one, two = module[0].weight, module[1].weight
    # Nine elements on two processes.
    own = slice(0, 5) if dist.get_rank() == 0 else slice(5, 9)
    expected = one.detach().flatten()[own].clone()
    optimizer = torch.optim.AdamW([{"params": [two]}, {"params": [one]}], lr=0.1)
    # Sub-groups of one parameter each.
    engine = initialize(module, 3, optimizer, zero={**APART, "sub_group_size": 1})
    assert one.numel() == two.numel() == 0
    assert (deepspeed_compat.whole_shape(one), deepspeed_compat.whole_shape(two)) == ((3, 3), (2, 3))
    assert deepspeed_compat.partition(one).shape == (5,)
    assert torch.equal(deepspeed_compat.partition(one)[: len(expected)], expected)
    groups = deepspeed_compat.sub_groups(engine)
    assert [[id(parameter) for parameter in group] for group in groups] == [[id(two)], [id(one)]]
    numbers, tensors = zip(*deepspeed_compat.masters(engine), strict=True)
    assert numbers == (0, 1)
    assert torch.equal(tensors[0], deepspeed_compat.partition(two))
    assert torch.equal(tensors[1][: len(expected)], expected)


@in_ranks(2)
def test_take_gradients():
    join()

    def reduced(engine: Any) -> Tensor:
        """What DeepSpeed has reduced, of gradients of 1 on the one process and 2 on the other."""
        engine.backward(engine(torch.eye(4)).sum() * (1 + dist.get_rank()))
        return engine.optimizer.grad_partitions_flat_buffer

    assert torch.equal(reduced(initialize(linear(4, 4), 3, zero=APART)), torch.full((8,), 1.5))
    engine = initialize(linear(4, 4), 3, zero=APART)
    taken: list[Tensor] = []

    def take(parameter: Any) -> None:
        taken.append(parameter.grad)
        parameter.grad = None

    deepspeed_compat.take_gradients(engine, take)
    assert torch.equal(reduced(engine), torch.zeros(8))
    assert torch.equal(torch.stack(taken), torch.full((1, 4, 4), 1.0 + dist.get_rank()))


@in_ranks(1)
def test_free_gradient_buffer():
    join()
    for zero, size in ((APART, 0), ({**APART, **OFFLOADED}, 36)):
        module = linear(3, 3)
        weight = module[0].weight
        engine = initialize(module, 3, zero=zero, **deepspeed_compat.corrected_defaults())
        buffer = engine.optimizer.grad_partitions_flat_buffer.untyped_storage()
        assert buffer.nbytes() == 36
        deepspeed_compat.free_gradient_buffer(engine)
        assert buffer.nbytes() == size
        deepspeed_compat.set_gradients(engine, lambda parameter: torch.full((9,), 2.0))
        engine.step()
        assert torch.all(deepspeed_compat.read_partitioned(engine, weight, "exp_avg") == 0.2)


@in_ranks(2)
def test_set_gradients():
    join()
    gradients = [torch.randn(size, generator=torch.Generator().manual_seed(1)) for size in ((3, 3), (2, 3))]
    plain = linear(3, 3, 2)
    for parameter, gradient in zip(plain.parameters(), gradients, strict=True):
        parameter.grad = gradient
    torch.optim.AdamW(plain.parameters(), lr=0.1).step()
    for zero in (APART, {**APART, **OFFLOADED}):
        module = linear(3, 3, 2)
        engine = initialize(module, 3, zero=zero, **deepspeed_compat.corrected_defaults())
        parts = {
            parameter: torch.cat([gradient.flatten(), torch.zeros(gradient.numel() % 2)]).chunk(2)[dist.get_rank()]
            for parameter, gradient in zip(module.parameters(), gradients, strict=True)
        }
        deepspeed_compat.set_gradients(engine, parts.__getitem__)
        engine.step()
        for parameter, expected in zip(module.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(deepspeed_compat.read_partitioned(engine, parameter, None), expected.detach())
