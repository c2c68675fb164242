"""Each patch of DeepSpeed: the fault without it, and what is there with it. Real DeepSpeed, in processes of its own.

Every rank of a job runs a test that is marked ``in_ranks``, by ``python -m`` of this module and the test's name.
"""

import atexit
import functools
import gc
import itertools
import logging
import os
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from molstream.errors import ConfigError
from molstream.training.distributed import deepspeed_compat
from molstream.training.optim.muon import MuonAdamW
from tests.support.engine_job import Network
from tests.support.processes import ENVIRONMENT, REPOSITORY, run_ranks

TIMEOUT = timedelta(seconds=33)
CHECKS: dict[str, Callable[[], None]] = {}


def in_ranks(world_size: int) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """A test that ``world_size`` processes run, each of which must come to its end."""

    def decorate(check: Callable[[], None]) -> Callable[[], None]:
        CHECKS[check.__name__] = check

        @functools.wraps(check)
        def test() -> None:
            output = run_ranks(world_size, ["-m", "tests.training.engine.test_deepspeed_compat", check.__name__])
            assert output.splitlines()[-1] == "passed"

        return test

    return decorate


def join() -> None:
    """Join the process group, with no patch but the one that keeps it from compiling."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    deepspeed_compat.skip_shared_memory_kernel()
    deepspeed_compat.init_distributed(TIMEOUT)


def initialize(
    module: nn.Module, stage: int, optimizer: torch.optim.Optimizer | None = None, zero: Any = None, **settings: Any
) -> Any:
    """DeepSpeed's engine; ``zero`` and ``settings`` are added to the least that it needs."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1) if optimizer is None else optimizer
    batch = {"train_batch_size": dist.get_world_size(), "train_micro_batch_size_per_gpu": 1}
    return deepspeed_compat.initialize(
        module, optimizer, {**batch, "zero_optimization": {"stage": stage, **(zero or {})}, **settings}
    )


def linear(*sizes: int) -> nn.Sequential:
    """Layers without bias; the same weights in every process."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)))


# Small enough that no parameter stays gathered.
APART = {"stage3_param_persistence_threshold": 0, "stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0}
OFFLOADED = {"offload_optimizer": {"device": "cpu"}}


# --- the version -----------------------------------------------------------------------------------------------------


def test_the_version_is_the_one_that_is_pinned():
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [name for name in extras["train"] if name.startswith("deepspeed")] == [
        f"deepspeed=={deepspeed_compat.VERSION}"
    ]
    deepspeed_compat.require_version()


def test_another_version_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "deepspeed-0.19.7.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.19.7\n"
    (tmp_path / "deepspeed-0.19.7.dist-info" / "METADATA").write_text(metadata)
    run = subprocess.run(
        [sys.executable, "-m", "molstream.training.pretrain", f"run_dir={tmp_path / 'run'}", "data.path=none"],
        env={**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1] == (
        f"error: unsupported DeepSpeed: found 0.19.7, expected {deepspeed_compat.VERSION}, whose internals molstream "
        f"replaces. Run: pip install 'deepspeed=={deepspeed_compat.VERSION}'."
    )
    assert not (tmp_path / "run").exists()


def test_a_missing_deepspeed_is_named(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ConfigError, match="found none, expected"):
        deepspeed_compat.require_version()


@in_ranks(1)
def test_an_attribute_that_is_gone_is_named():
    import deepspeed.ops
    import deepspeed.runtime.zero.utils as utils
    from deepspeed.comm.backend import Backend
    from deepspeed.comm.torch import TorchBackend

    join()
    # Without ZeRO, the optimizer is torch's, and has nothing of what ZeRO adds.
    engine, parameter = initialize(linear(2, 2), 0), nn.Parameter(torch.zeros(2))
    del deepspeed.ops._probe_compatible_ops
    del TorchBackend.new_group, Backend.new_group
    del utils.ZERO_SUPPORTED_OPTIMIZERS
    del utils.warned
    uses: list[tuple[str, Callable[[], Any]]] = [
        ("deepspeed.ops has no attribute _probe_compatible_ops", deepspeed_compat.skip_shared_memory_kernel),
        ("TorchBackend has no attribute new_group", lambda: deepspeed_compat.limit_new_groups(TIMEOUT)),
        ("zero.utils has no attribute ZERO_SUPPORTED_OPTIMIZERS", lambda: deepspeed_compat.accept_optimizer(MuonAdamW)),
        ("zero.utils has no attribute warned", deepspeed_compat.allow_any_output),
        ("AdamW has no attribute _hp_optimizer_states_linked", lambda: deepspeed_compat.link_moments(engine)),
        ("Parameter has no attribute ds_tensor", lambda: deepspeed_compat.partition(parameter)),
        ("Parameter has no attribute ds_shape", lambda: deepspeed_compat.whole_shape(parameter)),
        ("get_local_fp32_param", lambda: deepspeed_compat.read_partitioned(engine, parameter, None)),
        ("set_local_hp_param", lambda: deepspeed_compat.write_partitioned(engine, parameter, None, parameter)),
        ("fp32_partitioned_groups_flat", lambda: deepspeed_compat.masters(engine)),
        ("fp16_groups", lambda: deepspeed_compat.sub_groups(engine)),
        ("reduce_ready_partitions_and_remove_grads", lambda: deepspeed_compat.take_gradients(engine, print)),
        ("offload_optimizer", lambda: deepspeed_compat.free_gradient_buffer(engine)),
        ("offload_optimizer", lambda: deepspeed_compat.set_gradients(engine, lambda p: p)),
    ]
    for message, use in uses:
        with pytest.raises(ConfigError, match=message):
            use()


def test_our_modules_do_not_import_deepspeed():
    program = "import sys, molstream.training.pretrain; assert 'deepspeed' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, cwd=REPOSITORY, check=True)


# --- the process group -----------------------------------------------------------------------------------------------


@in_ranks(1)
def test_skip_shared_memory_kernel():
    import deepspeed.ops
    from deepspeed.comm.torch import build_shm_op

    # DeepSpeed would compile it.
    assert deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"]
    deepspeed_compat.skip_shared_memory_kernel()
    assert build_shm_op() is None
    assert not deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"]


@in_ranks(2)
def test_limit_new_groups():
    import deepspeed.comm

    def timeouts() -> set[timedelta]:
        groups = dist.distributed_c10d._world.pg_map
        return {group._get_backend(torch.device("cpu")).options._timeout for group in groups}

    join()
    assert timeouts() == {TIMEOUT}
    group = deepspeed.comm.new_group([0, 1])
    assert timeouts() == {TIMEOUT, timedelta(minutes=30)}
    dist.destroy_process_group(group)
    deepspeed_compat.limit_new_groups(TIMEOUT)
    before = len(dist.distributed_c10d._world.pg_map)
    for stage in (1, 3):
        initialize(linear(4, 4), stage)
    assert len(dist.distributed_c10d._world.pg_map) > before
    assert timeouts() == {TIMEOUT}


@in_ranks(1)
def test_ignore_deprecated_collectives():
    import deepspeed.comm

    def warned() -> list[type[Warning]]:
        with warnings.catch_warnings(record=True) as found:
            deepspeed.comm.all_gather_into_tensor(torch.empty(2), torch.ones(2))
            deepspeed.comm.reduce_scatter_tensor(torch.empty(2), torch.ones(2))
        return [warning.category for warning in found]

    join()
    warnings.simplefilter("always")
    assert warned() == [FutureWarning, FutureWarning]
    deepspeed_compat.ignore_deprecated_collectives()
    assert warned() == []


def gloo_threads() -> int:
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return sum("gloo" in name for name in names)


@in_ranks(2)
def test_end_process():
    atexit.register(os._exit, 7)
    join()
    engine = initialize(linear(4, 4), 1)
    dist.barrier()
    dist.destroy_process_group()
    del engine
    gc.collect()
    assert gloo_threads() > 0
    # This module ends with `end_process(0)`: no shutdown, which would give code 7.


# --- the engine ------------------------------------------------------------------------------------------------------


@in_ranks(1)
def test_accept_optimizer():
    import deepspeed.runtime.zero.utils as utils

    join()
    module = linear(4, 4)
    optimizer = MuonAdamW(module.parameters())
    with pytest.raises(AssertionError, match="untested ZeRO Optimizer"):
        initialize(module, 1, optimizer)
    for _ in range(2):
        deepspeed_compat.accept_optimizer(MuonAdamW)
    assert utils.ZERO_SUPPORTED_OPTIMIZERS.count(MuonAdamW) == 1
    initialize(module, 1, optimizer)


@in_ranks(1)
def test_allow_any_output():
    import deepspeed.runtime.zero.utils as utils
    from deepspeed.utils import logger

    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    join()
    engine = initialize(Network(), 3)
    engine(torch.ones(5, 7), torch.ones(5, 3))
    assert [message for message in messages if "Output" in message]
    messages.clear()
    utils.warned = False
    deepspeed_compat.allow_any_output()
    engine(torch.ones(5, 7), torch.ones(5, 3))
    assert messages == []


@in_ranks(1)
def test_gradients_are_not_clipped_by_default():
    def first_moment(**settings: Any) -> Tensor:
        module = linear(4, 4)
        engine = initialize(module, 1, **settings)
        engine.backward((module[0].weight * 5.0).sum())
        engine.step()
        deepspeed_compat.link_moments(engine)
        return deepspeed_compat.read_moment(module[0].weight, "exp_avg")

    join()
    # Sixteen gradients of 5 have the norm 20; AdamW's first moment is a tenth of the gradient.
    torch.testing.assert_close(first_moment(), torch.full((4, 4), 0.5 / 20))
    torch.testing.assert_close(first_moment(**deepspeed_compat.corrected_defaults()), torch.full((4, 4), 0.5))


@in_ranks(1)
def test_any_optimizer_can_be_offloaded():
    from deepspeed.runtime.zero.utils import ZeRORuntimeException

    join()
    module = linear(4, 4)
    with pytest.raises(ZeRORuntimeException, match="client provided optimizer"):
        initialize(module, 1, zero=OFFLOADED)
    initialize(module, 1, zero=OFFLOADED, **deepspeed_compat.corrected_defaults())


@in_ranks(1)
def test_zero3_allocates_no_bucket_and_keeps_no_weights_gathered():
    bucket = 12345

    def sizes_of_gathered(zero: dict[str, Any]) -> list[int]:
        module = linear(4, 5, 6, 7)
        size = {"reduce_bucket_size": bucket, "stage3_param_persistence_threshold": 0}
        engine = initialize(module, 3, zero={**size, **zero})
        # In the first step DeepSpeed only records the order of use.
        engine.backward(engine(torch.ones(2, 4)).sum())
        engine.step()
        engine(torch.ones(2, 4))
        return [parameter.numel() for parameter in module.parameters()]

    def buckets() -> int:
        gc.collect()
        return sum(type(item) is Tensor and item.numel() == bucket for item in gc.get_objects())

    join()
    # Fewer elements than any weight has; the last layer's is the next one that is used.
    assert sizes_of_gathered(deepspeed_compat.corrected_zero3_defaults(10)) == [0, 0, 42]
    assert buckets() == 0
    assert sizes_of_gathered({}) == [20, 30, 42]
    assert buckets() == 1


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


if __name__ == "__main__":
    CHECKS[sys.argv[1]]()
    print("passed")
    deepspeed_compat.end_process(0)
