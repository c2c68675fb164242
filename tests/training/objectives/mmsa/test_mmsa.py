"""The MMSA-style objective: one loss however a batch is cut, what is absent, its state, and its controls."""

from dataclasses import replace

import pytest
import torch

from molstream.errors import ConfigError
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.labels import Labels
from molstream.training.look_ahead import LookAhead
from molstream.training.models.config import ResNetConfig
from molstream.training.module import PretrainingModule, build_module
from molstream.training.objectives.base import GlobalBatch
from molstream.training.objectives.config import ObjectiveConfig
from molstream.training.objectives.mmsa.config import MMSAConfig
from molstream.training.objectives.mmsa.objective import MMSA
from molstream.training.objectives.mmsa.structure import Structure
from tests.support.molecules import DRUGS, model_config, molecule_batch, seeded
from tests.support.plain_engine import PlainEngine, on_ranks

SMALL = {"features": 24, "code": 16, "structure": 12, "queue": 20, "neighbours": 3, "anchors": 4, "warmup_start": 0.0}
EXACT = {"keep": 1.0, "dropout": 0.0, "warmup_length": 0.0}
"""No draws, and the memory counts from the beginning."""
LANES, MICRO_BATCH = 4, 3


def build(preset="tiny", resnet=None, **options) -> PretrainingModule:
    """A small module; ``tiny`` has no BatchNorm, so that a micro-batch alone gives what it gives among others."""
    model = replace(model_config(preset), position_transformer=None, bond_transformer=None, resnet=resnet)
    return build_module(model, ObjectiveConfig(mmsa=MMSAConfig(**{**SMALL, **options})), 0)


def some(first: int, count: int, dtype=torch.float64, has_pos: bool = True) -> MoleculeBatch:
    """A few of the molecules, with keys."""
    numbers = torch.arange(first, first + count)
    batch = molecule_batch(DRUGS[first : first + count], [has_pos] * count)
    return replace(batch, pos=batch.pos.to(dtype), index=numbers, key_hash=7 * numbers)


def started(module: PretrainingModule) -> PretrainingModule:
    """Put a batch of other molecules into the queue, and draw anchors from it."""
    objective = module.objective.parts["mmsa"]
    dtype = next(module.parameters()).dtype
    own = objective.split(some(LANES * MICRO_BATCH, 12, dtype), module.encoders, seeded())
    objective.global_terms(GlobalBatch(own.codes, 1.0), seeded(3))
    objective.end_step(seeded(4))
    assert objective.structure is None or objective.structure.anchors.ready()
    return module


def train_step(engine: PlainEngine, number: int = 0, dtype=torch.float64, progress: float = 1.0) -> list[float]:
    """Accumulate the lanes of a rank; the losses of all lanes."""
    ahead = LookAhead(engine, engine.module.objective, LANES)
    lanes = range(engine.context.rank, LANES, engine.context.world_size)

    def inputs(lane):
        return some(MICRO_BATCH * lane, MICRO_BATCH, dtype), seeded(100 * number + lane)

    shares = ahead.shares([inputs(lane) for lane in lanes], seeded(100 * number + LANES), progress)
    losses = [engine.accumulate(*inputs(lane), *share).loss for lane, share in zip(lanes, shares, strict=True)]
    ahead.end_step(True)
    return engine.context.gather_lanes(torch.stack(losses).detach()).tolist()


@pytest.mark.parametrize("options", [{}, {"anchor_update": "learned"}, {"memory": False}, {"usage": "entropy"}])
def test_lanes_have_the_loss_and_gradient_of_the_joined_batch(options):
    module = started(build(**EXACT, **options).double())
    output = module(some(0, LANES * MICRO_BATCH), seeded())
    expected = torch.autograd.grad(output.loss, list(module.parameters()), materialize_grads=True)
    [(losses, sums)], _ = on_ranks(module, 1, LANES, lambda engine: (train_step(engine), engine.sums))
    assert sum(losses) / LANES == pytest.approx(output.loss.item(), rel=1e-9)
    for (name, _), gradient in zip(module.named_parameters(), expected, strict=True):
        torch.testing.assert_close(sums[name] / LANES, gradient, rtol=1e-6, atol=1e-10)


def trained(module: PretrainingModule, world_size: int) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """A few steps by this number of ranks: losses of all lanes, and the state of the first rank at the end."""

    def train(engine):
        losses = []
        for number in range(6):
            engine.clear()
            losses.append(train_step(engine, number, torch.float32, number / 6))
            for name, parameter in engine.module.named_parameters():
                total = engine.context.gather_lanes(engine.sums[name].unsqueeze(0)).sum(0)
                parameter.data -= (0.3 / LANES * total).float()
        return losses

    found, first = on_ranks(module, world_size, LANES, train)
    assert all(losses == found[0] for losses in found)
    return found[0], first.state_dict()


@pytest.mark.parametrize("preset", ["tiny", "mmsa_tiny"])
def test_any_number_of_ranks_gives_one_curve_queue_and_memory(preset):
    """Rounding is the same, too: to the last bit, with dropout of entries and of modalities."""
    module = build(preset, warmup_length=0.5)
    if preset == "mmsa_tiny":
        # Its BatchNorm has statistics that the real engine averages over lanes.
        module.encoders.encoder_2d.eval()
    losses, state = trained(module, 1)
    assert losses[0] != losses[-1]
    assert int(state["objective.mmsa.structure.anchors.started"]) == 1
    assert state["objective.mmsa.structure.queue.filled"].all()
    for world_size in (2, 4):
        others, found = trained(module, world_size)
        assert others == losses
        for name, tensor in state.items():
            assert torch.equal(found[name], tensor), name


def test_molecules_without_a_conformer_teach_the_3d_encoder_nothing():
    module = started(build())
    for has_pos in (True, False):
        module.zero_grad()
        output = module(some(0, 6, torch.float32, has_pos), seeded())
        output.loss.backward()
        assert output.loss.isfinite()
        assert all(value.isfinite() for value in output.metrics.values())
        assert any(p.grad.any() for p in module.encoders.encoder_2d.parameters())
        assert any(p.grad.any() for p in module.encoders.encoder_3d.parameters()) == has_pos


def test_molecules_that_are_not_drawn_teach_the_image_encoder_nothing():
    module = build(resnet=ResNetConfig(width=8, image_size=32))
    pixels = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8, generator=seeded())
    for is_drawn in (True, False):
        module.zero_grad()
        has_image = torch.full((6,), is_drawn)
        output = module(replace(some(0, 6, torch.float32), images=pixels, has_image=has_image), seeded())
        output.loss.backward()
        assert output.loss.isfinite()
        assert any(p.grad.any() for p in module.encoders.encoder_2d.parameters())
        assert any(p.grad.any() for p in module.encoders.encoder_image.parameters()) == is_drawn
    assert module.objective.parts["mmsa"].coders.modalities == ("2d", "3d", "image")


def test_the_queue_holds_the_latest_molecules():
    queue = build(**EXACT).objective.parts["mmsa"].structure.queue
    for first, count in ((0, 3), (3, 12), (15, 7)):
        assert queue.real.tolist() == [True] * first + [False] * (20 - first)
        queue.push(torch.full((count, 16), float(first)), torch.arange(first, first + count))
    assert queue.key.tolist() == [*range(15, 22), *range(3, 15), 0]
    assert queue.u[:, 0].tolist() == [15.0] * 7 + [3.0] * 12 + [0.0]


def test_a_molecule_sees_the_queue_and_not_itself_there(monkeypatch):
    module = build(**EXACT, neighbours=2)
    objective = module.objective.parts["mmsa"]
    codes = objective.split(some(0, 5, torch.float32), module.encoders, seeded()).codes
    found = []
    made = Structure._hypergraph
    monkeypatch.setattr(Structure, "_hypergraph", lambda *given: found.append(made(*given)) or found[-1])
    for _ in range(2):
        objective.global_terms(GlobalBatch(codes, 1.0), seeded())
        objective.end_step(seeded())
    # The second time, all five are in the queue.
    other = found[1].members[:10, 1]
    assert (other >= 5).any()
    assert (other % 5 != torch.arange(10) % 5).all()
    assert torch.equal(other[:5] % 5, found[0].members[:5, 1])
    assert torch.equal(found[1].weight.sum(1), torch.tensor([2.0] * 10 + [0.0] * 15))


def test_losses_of_the_structure_are_those_of_the_formulas():
    module = started(build(**EXACT).double())
    objective = module.objective.parts["mmsa"]
    structure = objective.structure
    own = objective.split(some(0, 5), module.encoders, seeded())
    c, present = own.codes["c"].detach(), own.codes["present"].clone()
    present[2, 1] = False
    u = (c * present.unsqueeze(2)).sum(1) / present.sum(1, keepdim=True)
    seen = structure(u, c, own.codes["key"], seeded())
    losses = structure.losses(seen, present)

    def s(rows):
        rows = rows @ structure.theta.weight.detach().T
        return torch.relu(
            (rows - rows.mean(-1, keepdim=True)) / (rows.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        )

    def activation(rows):
        unit, anchors = (x / x.norm(dim=-1, keepdim=True) for x in (rows, structure.anchors.vectors))
        return torch.softmax(unit @ anchors.T / objective.config.anchor_temperature, -1)

    z = seen.z[:5].detach()
    read = activation(z) @ structure.anchors.vectors
    divergence = [
        [(a * (a / b).log()).sum().item() for m, b in enumerate(alone) if has[m]]
        for a, alone, has in zip(activation(z), activation(s(c)), present)
    ]
    assert losses["memory"].item() == pytest.approx((z - read).square().mean().item())
    assert losses["invariance"].item() == pytest.approx(sum(sum(row) / len(row) for row in divergence) / 5)
    vertices = torch.cat([s(u), s(structure.queue.u)])
    keys = torch.cat([own.codes["key"], structure.queue.key])
    real = torch.arange(25) < 17
    graph = structure._hypergraph(torch.cat([u, structure.queue.u]), keys, real, seeded())
    torch.testing.assert_close(z, graph.convolve(vertices)[:5])


def test_the_weight_of_the_structure_grows_and_never_falls():
    structure = Structure(MMSAConfig(warmup_start=0.1, warmup_length=0.2))
    found = [structure.warmth(progress) for progress in (0.0, 0.1, 0.15, 0.2, 0.3, 1.0)]
    assert found == pytest.approx([0.0, 0.0, 0.25, 0.5, 1.0, 1.0])
    assert Structure(MMSAConfig(warmup_start=0.5, warmup_length=0.0)).warmth(0.5) == 1.0
    module = started(build())
    objective = module.objective.parts["mmsa"]
    own = objective.split(some(0, 4, torch.float32), module.encoders, seeded())
    terms = objective.global_terms(GlobalBatch(own.codes, 0.0), seeded())
    assert terms["memory"].coefficient == objective.config.memory_coefficient


def test_anchors_wait_for_the_warm_up_and_count_from_then_on():
    module = build(warmup_start=0.5, warmup_length=0.0)
    objective = module.objective.parts["mmsa"]
    for progress, ready, weight in ((0.4, False, 0.0), (0.5, True, 0.0), (0.6, True, 0.9)):
        own = objective.split(some(0, 12, torch.float32), module.encoders, seeded())
        terms = objective.global_terms(GlobalBatch(own.codes, progress), seeded())
        objective.end_step(seeded())
        assert objective.structure.anchors.ready() == ready
        assert terms["memory"].coefficient == weight


def test_one_neighbour_is_the_molecule_itself():
    module = started(build(**EXACT, neighbours=1))
    objective = module.objective.parts["mmsa"]
    codes = objective.split(some(0, 5, torch.float32), module.encoders, seeded()).codes
    u = codes["c"].mean(1)
    seen = objective.structure(u, codes["c"], codes["key"], seeded())
    torch.testing.assert_close(seen.z[:5], objective.structure.transform(u, seeded()))


def test_controls_change_what_they_name():
    """Random members give another z by the same weights; without a memory there is neither module nor loss."""
    whole, chance, without = (started(build(**EXACT, **o)) for o in ({}, {"hypergraph": "random"}, {"memory": False}))
    losses = {}
    for name, module in (("whole", whole), ("random", chance), ("without", without)):
        own = module.objective.parts["mmsa"].split(some(0, 6, torch.float32), module.encoders, seeded())
        losses[name] = module.objective.parts["mmsa"].global_terms(GlobalBatch(own.codes, 1.0), seeded())
    assert losses["without"].keys() == {"contrast"}
    assert losses["whole"].keys() == losses["random"].keys() == {"contrast", "memory", "invariance", "usage"}
    assert losses["whole"]["contrast"].loss == losses["random"]["contrast"].loss == losses["without"]["contrast"].loss
    assert losses["whole"]["memory"].loss != losses["random"]["memory"].loss
    assert not any("structure" in name for name, _ in without.named_parameters())


def test_it_stands_beside_other_objectives_under_its_name():
    model = model_config("tiny")
    module = build_module(model, ObjectiveConfig(moleculesde={}, mmsa={**SMALL, "weight": 0.5}), 0)
    [losses], _ = on_ranks(module, 1, LANES, lambda engine: train_step(engine, dtype=torch.float32))
    output = module(some(0, 3, torch.float32), seeded())
    assert len(losses) == LANES
    names = {"mmsa/loss", "mmsa/contrastive", "mmsa/code_deviation", "mmsa/usage_entropy", "moleculesde/loss"}
    assert names < output.metrics.keys()
    expected = output.metrics["moleculesde/loss"] + 0.5 * output.metrics["mmsa/loss"]
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_one_modality_is_too_few():
    with pytest.raises(ConfigError, match="has encoders of 2d, expected two at least"):
        MMSA(MMSAConfig(), replace(model_config("tiny"), geometry_transformer=None), Labels.unknown())
    with pytest.raises(ConfigError, match="no term aligns the modalities"):
        MMSAConfig(homogeneity_coefficient=0, reconstruction_coefficient=0, contrastive_coefficient=0)
