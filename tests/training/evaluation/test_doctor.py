"""The doctor: parameters of the module itself, memory as the engine allocates it, FLOPs against counts by hand."""

import json
from dataclasses import fields, is_dataclass, replace

import pytest
import torch

from molstream.cli import doctor
from molstream.errors import ConfigError
from molstream.training.engine.memory import gpu_memory
from molstream.training.evaluation.config import CostConfig
from molstream.training.evaluation.cost_model import (
    TRUNKS,
    count_flops,
    dataset_batch,
    dataset_labels,
    flops_of,
    parameters_by_part,
    typical_batch,
)
from molstream.training.memory import on_meta
from molstream.training.models.config import TransformerConfig
from molstream.training.models.graph import molecule_pairs
from molstream.training.models.layout import bucketed
from molstream.training.models.transformer import Block
from molstream.training.module import build_module
from tests.support.datasets import molstream
from tests.support.molecules import (
    DRUGS,
    model_config,
    molecule_batch,
    num_parameters,
    objective_config,
    seeded,
    write_featurized,
)
from tests.support.processes import run_ranks

TINY = model_config("tiny")


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("paper", "moleculesde_paper"),
        ("paper_tiny", "moleculesde_paper"),
        ("tiny", "moleculesde"),
        ("small", "moleculesde"),
    ],
)
def test_parts_are_those_of_the_module_that_is_trained(preset, name):
    model, objective = model_config(preset), objective_config(name)
    parts = parameters_by_part(on_meta(lambda: build_module(model, objective, 0)))
    module = build_module(model, objective, 0)
    assert sum(parts.values()) == num_parameters(module)
    assert parts["encoder_2d"] == num_parameters(module.encoders.encoder_2d)
    assert parts["position_score"] == num_parameters(module.objective.get_submodule(f"{name}.position_score"))


def test_the_paper_has_its_parameters():
    parts = parameters_by_part(
        on_meta(lambda: build_module(model_config("paper"), objective_config("moleculesde_paper"), 0))
    )
    assert parts == {
        "encoder_2d": 1_885_205,
        "encoder_3d": 1_359_708,
        "position_score": 256_938,
        "graph_score": 1_166_676,
    }


@pytest.mark.parametrize(
    ("world_size", "stage", "offload", "bucket"),
    [
        (1, 1, "none", 40_000),
        pytest.param(2, 0, "none", 40_000, marks=pytest.mark.slow),
        pytest.param(2, 1, "none", 40_000, marks=pytest.mark.slow),
        pytest.param(2, 2, "none", 40_000, marks=pytest.mark.slow),
        pytest.param(4, 1, "none", 150_000, marks=pytest.mark.slow),
        pytest.param(2, 3, "none", 1_500_000, marks=pytest.mark.slow),
        pytest.param(4, 3, "none", 5_000_000, marks=pytest.mark.slow),
        pytest.param(2, 3, "all", 1_500_000, marks=pytest.mark.slow),
    ],
)
def test_memory_is_what_the_engine_allocates(tmp_path, world_size, stage, offload, bucket):
    """All tensors of a process are counted while it trains; parts of parameters at the ends of a part are tolerated."""
    job = ["-m", "tests.support.memory_job", str(stage), offload, str(bucket), str(tmp_path / "bytes.json")]
    run_ranks(world_size, job)
    measured = json.loads((tmp_path / "bytes.json").read_text())
    expected = gpu_memory(measured["sizes"], stage, world_size, "fp32", bucket, offload)
    # Here the one memory is the other.
    assert measured["kept"] == pytest.approx(expected.kept + expected.cpu, rel=0.01)
    if offload == "none":
        assert measured["step"] == pytest.approx(expected.step, rel=0.02)


def test_more_gpus_share_the_optimizer_at_stage_1_and_everything_at_stage_3():
    sizes = [10**7] * 100
    one, many = (gpu_memory(sizes, 1, gpus, "bf16") for gpus in (1, 64))
    assert one.weights == many.weights == 4 * 10**9
    assert one.sums == many.sums == 8 * 10**9
    assert one.optimizer == 64 * many.optimizer == 12 * 10**9
    assert one.lane == 2 * 10**9
    assert gpu_memory(sizes, 1, 1, "fp32").lane == 0
    one, many = (gpu_memory(sizes, 3, gpus, "fp16") for gpus in (1, 64))
    assert (one.kept, one.step) == (64 * many.kept, 64 * many.step)
    # Copies in half precision; a bucket and the largest parameter, gathered and reduced.
    assert one.lane == many.lane == 2 * 10**9 + 16 * (50_000_000 + 10**7)


def test_flops_of_a_layer_and_of_a_block_are_those_counted_by_hand():
    layer, rows = torch.nn.Linear(5, 7), torch.randn(11, 5)
    assert flops_of(lambda: layer(rows).sum()).tolist() == [2 * 11 * 5 * 7, 2 * 11 * 5 * 7]

    sizes = [3, 9, 10, 4]
    n, d, c, h, f = sum(sizes), 24, 8, 3, 20
    batch = torch.repeat_interleave(torch.tensor(sizes))
    layout, pairs = bucketed(batch), molecule_pairs(batch).shape[1]
    block = Block(TransformerConfig(hidden=d, num_layers=1, num_heads=h, feed_forward=f, pair_hidden=c))
    x, relation = torch.randn(n, d, requires_grad=True), torch.randn(pairs + 1, c, requires_grad=True)
    entries = sum(bucket.num_molecules * bucket.size**2 for bucket in layout.buckets)
    products = [n * d * 3 * d, (pairs + 1) * c * h, 2 * entries * d, n * d * d, n * d * 2 * f, n * f * d]
    found = flops_of(lambda: block(x, relation, layout).sum())
    assert found.tolist() == [2 * sum(products), 4 * sum(products)]


def test_deep_stacks_are_counted_from_shallow_ones():
    """Against a count of the whole model as it stands, without checkpointing."""
    score, bonds = TINY.position_transformer, TINY.bond_transformer
    model = replace(
        TINY,
        graph_transformer=replace(TINY.graph_transformer, num_layers=4),
        geometry_transformer=replace(TINY.geometry_transformer, num_layers=1),
        position_transformer=replace(score, trunk=replace(score.trunk, num_layers=3)),
        bond_transformer=replace(bonds, trunk=replace(bonds.trunk, num_layers=2)),
    )
    batch, objective = molecule_batch(DRUGS[:5]), objective_config("moleculesde")
    module = build_module(model, objective, 0)
    expected = flops_of(lambda: module(batch, seeded(0)).loss) / 5
    recomputing = replace(model, graph_transformer=replace(model.graph_transformer, checkpointing=True))
    for config in (model, recomputing):
        found = count_flops(config, objective, batch)
        assert [found.forward, found.backward] == expected.tolist()


def test_a_model_without_stacks_is_counted_as_it_is():
    batch, objective = molecule_batch(DRUGS[:5]), objective_config("moleculesde_paper")
    module = build_module(model_config("paper_tiny"), objective, 0)
    found = count_flops(model_config("paper_tiny"), objective, batch)
    assert [found.forward, found.backward] == (flops_of(lambda: module(batch, seeded(0)).loss) / 5).tolist()


def test_heads_have_the_size_of_the_labels_of_a_dataset(tmp_path):
    folder = str(write_featurized(tmp_path / "dataset", DRUGS[:8]))
    labels, objective = dataset_labels(folder), objective_config("targets")
    assert labels.targets.names == ("value",)
    parts = parameters_by_part(on_meta(lambda: build_module(TINY, objective, 0, labels)))
    widths = [TINY.readout_width(modality) for modality in ("2d", "3d")]
    assert parts["heads"] == sum(width * 256 + 256 + 256 + 1 for width in widths)
    flops = count_flops(TINY, objective, dataset_batch(folder), labels)
    assert 0 < flops.forward < flops.backward
    with pytest.raises(ConfigError, match="objective=targets: expected a dataset with targets"):
        build_module(TINY, objective, 0)


def test_every_stack_of_blocks_is_known():
    def stacks(config, path=()):
        for part in fields(config):
            value, here = getattr(config, part.name), (*path, part.name)
            if isinstance(value, TransformerConfig):
                yield ".".join(here)
            elif is_dataclass(value):
                yield from stacks(value, here)

    known = {*stacks(model_config("small")), *stacks(model_config("moleblend_small"))}
    assert known == set(TRUNKS)


def test_typical_molecules_have_25_atoms():
    batch = typical_batch()
    assert batch.num_graphs == 8
    assert batch.has_pos.all()
    assert batch.num_nodes / batch.num_graphs == pytest.approx(25, abs=0.5)


def test_the_command_tells_of_the_machine_and_of_a_model(dataset):
    machine = molstream("doctor").stdout
    for name in ("python", "torch-geometric", "CPU cores", "memory", "CUDA", "disk of the working folder", "shared"):
        assert name in machine, name
    assert "parameters" not in machine
    both = molstream("doctor", "model=tiny", "objective=moleculesde", "gpus=2", f"dataset={dataset}").stdout
    module = on_meta(lambda: build_module(TINY, objective_config("moleculesde"), 0))
    assert f"{num_parameters(module):,}" in both
    assert "memory of one of 2 GPUs" in both
    assert "GFLOP per molecule" in both
    for argument, message in (("model=huge", "huge"), ("gpus=0", "gpus=0"), ("precision=half", "precision=half")):
        refused = molstream("doctor", argument, check=False)
        assert refused.returncode == 2
        assert message in refused.stderr


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    table = doctor.machine()
    names, found = ([str(cell) for cell in column._cells] for column in table.columns)
    assert found[names.index("no-such-package")] == "not installed"
    with pytest.raises(ConfigError, match="gpus=0"):
        CostConfig(gpus=0)
