"""A model that does not fit is refused from its numbers, before anything is allocated."""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from molstream.errors import ConfigError
from molstream.training.config import PretrainConfig
from molstream.training.data.labels import Labels
from molstream.training.distributed.context import DistributedContext
from molstream.training.engine.config import EngineConfig
from molstream.training.inference.pretrained import load_pretrained
from molstream.training.memory import num_bytes, on_meta, require_room_to_train
from molstream.training.models.config import GINConfig, ModelConfig, PaiNNConfig, SchNetConfig, TransformerConfig
from molstream.training.module import build_module
from tests.support.datasets import REPOSITORY
from tests.support.molecules import model_config, objective_config
from tests.support.room import ROOM, little_room

ALONE = DistributedContext(0, 1, torch.device("cpu"))
NONE = Labels.unknown()


@pytest.fixture
def unused() -> Iterator[None]:
    """Asserts that a test allocates next to nothing."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def run(model: ModelConfig, **engine: object) -> PretrainConfig:
    return PretrainConfig(
        run_dir="", model=model, objective=objective_config("moleculesde"), deepspeed=EngineConfig(**engine)
    )


def wide(**sizes: int) -> ModelConfig:
    """The smallest preset with two encoders of other sizes."""
    tiny = model_config("tiny")
    networks = {name: replace(getattr(tiny, name), **sizes) for name in ("graph_transformer", "geometry_transformer")}
    return replace(tiny, **networks)


@pytest.mark.usefixtures("unused")
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_model_that_no_machine_can_train_is_refused_at_every_stage(stage):
    started = time.monotonic()
    with pytest.raises(ConfigError) as refused:
        require_room_to_train(
            run(wide(hidden=32_768, feed_forward=65_536, num_layers=200), zero_stage=stage), ALONE, NONE
        )
    assert time.monotonic() - started < 30
    for part in (f"at ZeRO {stage} in 1 process(es)", "GiB free", "model.graph_transformer.feed_forward=65536"):
        assert part in str(refused.value)


def test_a_small_model_is_refused_where_there_is_less_room(export):
    config = run(wide(hidden=512, feed_forward=1024, num_layers=2))
    needed = num_bytes(on_meta(lambda: build_module(config.model, config.objective, 0)))
    assert ROOM // 4 < needed < ROOM
    with little_room():
        # Weights alone would fit, but sums of gradients and moments do not.
        with pytest.raises(ConfigError, match=r"the model does not fit: training [\d,]+ parameters"):
            require_room_to_train(config, ALONE, NONE)
        require_room_to_train(run(model_config("tiny")), ALONE, NONE)
        load_pretrained(export)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TransformerConfig(num_layers=10**9), "num_layers=1000000000: expected at most 1000"),
        (lambda: TransformerConfig(hidden=10**9, num_heads=10**9), "num_heads=1000000000: expected at most 1024"),
        (lambda: GINConfig(num_layers=10**6), "num_layers=1000000: expected at most 1000"),
        (lambda: SchNetConfig(num_gaussians=10**9), "num_gaussians=1000000000: expected at most 65536"),
        (lambda: PaiNNConfig(hidden=10**12), "hidden=1000000000000: expected at most 65536"),
    ],
)
def test_numbers_far_beyond_any_model_are_refused_by_name(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize("preset", ["tiny", "paper_tiny"])
def test_looking_at_a_model_needs_no_compiler(preset):
    name = {"tiny": "moleculesde", "paper_tiny": "moleculesde_paper"}[preset]
    script = f"""
import sys
from tests.support.molecules import model_config, objective_config
from molstream.training.memory import on_meta
from molstream.training.module import build_module
build = lambda: build_module(model_config("{preset}"), objective_config("{name}"), 0)
before = "torch._dynamo" in sys.modules
module = on_meta(build)
looked_at = module.state_dict()
assert before or not {{"torch._dynamo", "sympy"}} & sys.modules.keys()
built = build().state_dict()
assert [(k, v.shape, v.dtype) for k, v in looked_at.items()] == [(k, v.shape, v.dtype) for k, v in built.items()]
assert all(p.is_meta for p in module.parameters())
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
