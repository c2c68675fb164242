"""Each patch of DeepSpeed for every ZeRO stage: the fault without it, and what is there with it. Real DeepSpeed."""

import atexit
import gc
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
from tests.support.deepspeed_ranks import OFFLOADED, TIMEOUT, in_ranks, initialize, join, linear
from tests.support.engine_job import Network
from tests.support.processes import ENVIRONMENT, REPOSITORY

pytestmark = pytest.mark.slow

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
    # The process of this test ends with `end_process(0)`: no shutdown, which would give code 7.


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
