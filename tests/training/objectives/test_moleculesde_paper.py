"""The objective as a whole: start values, masks, gradient routes, repeatability, awkward molecules, overfitting."""

import math
from dataclasses import replace

import pytest
import torch

from molstream.compose import compose
from molstream.errors import ConfigError
from molstream.preprocessing.fields import FIELDS
from molstream.training.config import PretrainConfig
from molstream.training.data.labels import Labels
from molstream.training.diffusion.sde import GRAPH_SDES, POSITION_SDES
from molstream.training.models.config import ModelConfig
from molstream.training.models.encoders import Encoders
from molstream.training.models.graph import extended_edges
from molstream.training.objectives.base import graph_mean
from molstream.training.objectives.config import ObjectiveConfig, PaperMoleculeSDEConfig
from molstream.training.objectives.contrastive import CONTRASTIVE, ebm_nce
from molstream.training.objectives.moleculesde_paper import PaperMoleculeSDE
from molstream.training.objectives.table import OBJECTIVES, build_objective
from tests.support.molecules import (
    AWKWARD,
    DRUGS,
    described,
    model_config,
    molecule_batch,
    num_parameters,
    objective_config,
    paper_tiny,
    seeded,
    tiny_model,
)

MODEL_WIDTH = paper_tiny().hidden_3d


def build(model="tiny", dtype=torch.float32, **values):
    config = paper_tiny() if model == "tiny" else model_config(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoders = Encoders(config)
        objective = PaperMoleculeSDE(PaperMoleculeSDEConfig(**values), config, Labels.unknown())
    return encoders.to(dtype), objective.to(dtype)


def gradients(*modules):
    return {name: p.grad for module in modules for name, p in module.named_parameters()}


def test_presets_have_their_sizes_and_equal_the_defaults():
    encoders, objective = build("paper")
    assert num_parameters(encoders) + num_parameters(objective) == 1_885_205 + 1_359_708 + 256_938 + 1_166_676
    networks = {"gin": {}, "schnet": {}, "position_score": {}, "graph_score": {}}
    assert model_config("paper") == ModelConfig(**networks)
    assert sum(map(num_parameters, build("paper_tiny"))) < 200_000
    config = compose("pretrain", PretrainConfig, ["run_dir=x", "experiment=paper"])
    assert (config.model, config.objective) == (model_config("paper"), objective_config("moleculesde_paper"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_keeps_the_contract(name):
    """Finite loss and a gradient for every parameter with all, some and no conformers; equal draws, equal loss."""
    config = tiny_model(name)
    _, labels = described(molecule_batch(DRUGS[:4]), DRUGS[:4])
    encoders, objective = Encoders(config), build_objective(objective_config(name), config, labels)
    assert objective.required_fields <= {field.name for field in FIELDS}
    for has_pos in ([True] * 4, [True, False, True, False], [False] * 4):
        encoders.zero_grad()
        objective.zero_grad()
        batch, _ = described(molecule_batch(DRUGS[:4], has_pos), DRUGS[:4])
        output = objective(batch, encoders, seeded())
        output.loss.backward()
        assert output.loss.shape == ()
        assert output.loss.isfinite()
        assert all(not value.requires_grad and value.shape == () for value in output.metrics.values())
        for parameter, gradient in gradients(encoders, objective).items():
            assert gradient is not None, parameter
            assert gradient.isfinite().all(), parameter
        again, other = (objective(batch, encoders, seeded(seed)).loss for seed in (0, 1))
        assert torch.equal(again, output.loss)
        drawn = any(has_pos) or name == "moleblend"
        # Those of MMSA-style are of its memory, which does not count at the beginning of a run.
        assert bool(other != output.loss) == (drawn and name not in ("descriptors", "targets", "shapes", "mmsa"))


def test_named_settings_are_the_specifications():
    """Section 4.2: the same names stand for other numbers in the two directions."""
    numbers = lambda table: {name: (sde.kind, sde.minimum, sde.maximum) for name, sde in table.items()}  # noqa: E731
    positions = {
        "VE": ("ve", 0.2, 1.0),
        "VE02": ("ve", 0.1, 10.0),
        "VE03": ("ve", 0.1, 1000.0),
        "VP": ("vp", 0.2, 1.0),
        "VP02": ("vp", 0.2, 30.0),
        "VP03": ("vp", 0.2, 1000.0),
    }
    graph = {"VE": ("ve", 0.1, 1.0), "VP02": ("vp", 0.1, 30.0), "VP03": ("vp", 0.1, 1000.0)}
    assert numbers(POSITION_SDES).items() >= positions.items()
    assert numbers(GRAPH_SDES).items() >= (positions | graph).items()
    assert {sde.num_steps for table in (POSITION_SDES, GRAPH_SDES) for sde in table.values()} == {1000}


def test_start_values_are_the_specifications():
    encoders, objective = build("paper", temperature=1e6)
    metrics = objective(molecule_batch(DRUGS), encoders, seeded()).metrics
    assert metrics["contrastive"].item() == pytest.approx(2 * math.log(2), abs=0.01)
    # 3 and the fill of the layout are the squared noise; random heads add a little of their own. The adjacency head
    # adds much: it sees bond types up to 4 and their products up to 33, and each layer's A' + A'^T doubles them.
    assert 2.5 < metrics["position_score"].item() < 4.5
    assert 0.5 < metrics["graph_score_x"].item() < 1.2
    assert metrics["graph_score_adj"].item() > 0.3


def test_heads_that_predict_zero_leave_the_squared_noise():
    encoders, objective = build()
    last = [block.readout[2] for block in objective.position_score.blocks]
    for layer in (*last, objective.graph_score.node.final[-1], objective.graph_score.adjacency.final[-1]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    batch = molecule_batch(DRUGS)
    draws = [objective(batch, encoders, seeded(seed)).metrics for seed in range(20)]
    mean = {name: torch.stack([metrics[name] for metrics in draws]).mean().item() for name in draws[0]}
    counts = batch.ptr.diff()
    assert mean["position_score"] == pytest.approx(3.0, rel=0.03)
    assert mean["graph_score_x"] == pytest.approx((counts / counts.max()).mean().item(), rel=0.02)
    pairs = counts * (counts - 1) / counts.max() ** 2
    assert mean["graph_score_adj"] == pytest.approx(pairs.mean().item(), rel=0.03)


def test_losses_are_the_formulas_molecule_by_molecule():
    """Specification 3, 4.3 and 5.3 with the networks as black boxes and the draws repeated in their order."""
    encoders, objective = (module.eval() for module in build(position_sde="VE", graph_sde="VP02", anneal_power=1.0))
    smiles = ["CC(=O)N", "CCO", "C", "OCC=O"]
    batch = molecule_batch(smiles, [True, False, True, True])
    metrics = objective(batch, encoders, seeded(4)).metrics

    draw, g, s, kept = seeded(4), 4, 4, [0, 2, 3]
    z_2d = encoders.encoder_2d(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
    z_3d = encoders.encoder_3d(batch.x[:, 0], batch.pos, batch.batch)
    atoms = [i for i in range(batch.num_nodes) if batch.batch[i] in kept]
    torch.testing.assert_close(metrics["contrastive"], ebm_nce(z_2d[atoms], z_3d[atoms], 0.1, draw)[0])

    def times():
        k = torch.randint(1000, (3,), generator=draw).tolist()
        return [step / 1000 * (1 - 1e-6) + 1e-6 for step in [*k, *(999 - step for step in k)][:g]]

    t, noise = times(), torch.randn(batch.num_nodes, 3, generator=draw)
    std = [0.2 * 5**time for time in t]
    pos = torch.stack([batch.pos[i] + std[batch.batch[i]] * noise[i] for i in range(batch.num_nodes)])
    edges = extended_edges(batch.edge_index, batch.num_nodes, 4)
    wrong = objective.position_score(z_2d, pos, edges[:, edges[0] < edges[1]]) - noise
    losses = [(wrong[batch.batch == b] ** 2).sum(1).mean() * std[b] for b in kept]
    torch.testing.assert_close(metrics["position_score"], torch.stack(losses).mean())

    t, noise_x = times(), torch.randn(g, s, 119, generator=draw)
    noise_a = torch.randn(g, s, s, generator=draw).triu(1)
    noise_a = noise_a + noise_a.transpose(1, 2)
    losses_x, losses_a = [], []
    for b in kept:
        first, n = int(batch.ptr[b]), int(batch.ptr[b + 1] - batch.ptr[b])
        x, adj, z, flags = torch.zeros(s, 119), torch.zeros(s, s), torch.zeros(s, MODEL_WIDTH), torch.zeros(s).bool()
        z[:n] = z_3d[first : first + n]
        x[range(n), batch.x[first : first + n, 0]] = 1.0
        for (i, j), kind in zip((batch.edge_index - first).T.tolist(), batch.edge_attr[:, 0].tolist(), strict=True):
            if 0 <= i < n:
                adj[i, j] = kind + 1.0
                flags[i] = True
        log_mean = -0.25 * t[b] ** 2 * (30 - 0.1) - 0.5 * t[b] * 0.1
        factor, std_b = math.exp(log_mean), math.sqrt(1 - math.exp(2 * log_mean))
        zx, za = noise_x[b] * flags[:, None], noise_a[b] * flags[:, None] * flags[None]
        noised_x = (factor * x + std_b * zx) * flags[:, None]
        m_x, m_a = objective.graph_score(z[None], noised_x[None], (factor * adj + std_b * za)[None], flags[None])
        losses_x.append(((-m_x[0] / std_b + zx) ** 2).mean() * std_b)
        losses_a.append(((-m_a[0] / std_b + za) ** 2).mean() * std_b)
    torch.testing.assert_close(metrics["graph_score_x"], torch.stack(losses_x).mean(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(metrics["graph_score_adj"], torch.stack(losses_a).mean(), rtol=1e-4, atol=1e-6)


def test_loss_is_the_weighted_sum():
    encoders, objective = build(contrastive_coefficient=2.0, position_coefficient=3.0, graph_coefficient=5.0)
    output = objective(molecule_batch(DRUGS[:8]), encoders, seeded())
    m = output.metrics
    expected = 2 * m["contrastive"] + 3 * m["position_score"] + 2.5 * (m["graph_score_x"] + m["graph_score_adj"])
    torch.testing.assert_close(output.loss.detach(), expected)


@pytest.mark.parametrize(
    ("kept", "reached"),
    [("contrastive", {"2d", "3d"}), ("position", {"2d"}), ("graph", {"3d"})],
)
def test_gradients_take_the_papers_routes(kept, reached):
    coefficients = {f"{name}_coefficient": float(name == kept) for name in ("contrastive", "position", "graph")}
    encoders, objective = build(**coefficients)
    objective(molecule_batch(DRUGS[:6]), encoders, seeded()).loss.backward()
    moved = {
        side
        for side, encoder in (("2d", encoders.encoder_2d), ("3d", encoders.encoder_3d))
        if any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    }
    assert moved == reached


def test_positions_of_molecules_without_conformer_are_never_read():
    encoders, objective = (part.double() for part in build())
    batch = molecule_batch(DRUGS[:6], [True, False, True, True, False, True])
    garbage = torch.where(batch.has_pos[batch.batch].unsqueeze(1), batch.pos, 7.0 * torch.randn(batch.pos.shape))
    results = []
    for pos in (batch.pos.double(), garbage.double()):
        encoders.zero_grad()
        objective.zero_grad()
        output = objective(replace(batch, pos=pos), encoders, seeded())
        output.loss.backward()
        results.append([output.loss.detach(), *gradients(encoders, objective).values()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_no_conformer_at_all_gives_zero():
    encoders, objective = build()
    output = objective(molecule_batch(DRUGS[:3], [False] * 3), encoders, seeded())
    assert output.loss.item() == 0.0


def test_means_are_over_molecules_that_count():
    values = torch.tensor([1.0, float("nan"), 3.0], requires_grad=True)
    mean = graph_mean(values, torch.tensor([True, False, True]))
    mean.backward()
    assert mean.item() == 2.0
    assert values.grad.tolist() == [0.5, 0.0, 0.5]
    assert graph_mean(values, torch.zeros(3, dtype=torch.bool)).item() == 0.0


def test_graph_loss_scales_with_the_share_of_the_padded_layout(monkeypatch):
    """Specification 9.7: a molecule alone and in a padded batch differ by n_b / n and (n_b / n)^2."""
    encoders, objective = build(dtype=torch.float64)
    small, large = "CC(=O)N", "CC(=O)Oc1ccccc1C(=O)O"
    n_small, n_large = 4, 13
    alone, both = molecule_batch([small]), molecule_batch([small, large], [True, False])
    alone, both = (replace(batch, pos=batch.pos.double()) for batch in (alone, both))
    # The same time and the same noise at the same atoms, whatever the padding.
    from molstream.training.objectives import moleculesde_paper

    noise_x = torch.randn(n_large, 119, generator=seeded())
    noise_a = torch.randn(n_large, n_large, generator=seeded()).triu(1)
    noise_a = noise_a + noise_a.T
    monkeypatch.setattr(moleculesde_paper, "antithetic_times", lambda g, *_: torch.full((g,), 0.4))
    monkeypatch.setattr(moleculesde_paper, "normal", lambda shape, _: noise_x[: shape[1]].expand(shape))
    monkeypatch.setattr(moleculesde_paper, "symmetric_normal", lambda g, n, _: noise_a[:n, :n].expand(g, n, n))
    losses = []
    for batch in (alone, both):
        z_3d = encoders.encoder_3d(batch.x[:, 0], batch.pos, batch.batch)
        losses.append(objective._graph_term(batch, z_3d, seeded()).metrics.values())
    (alone_x, alone_adj), (both_x, both_adj) = losses
    assert both_x.item() == pytest.approx(alone_x.item() * n_small / n_large, rel=1e-9)
    assert both_adj.item() == pytest.approx(alone_adj.item() * (n_small / n_large) ** 2, rel=1e-9)


def test_anneal_power_multiplies_by_the_noise_level(monkeypatch):
    from molstream.training.objectives import moleculesde_paper

    monkeypatch.setattr(moleculesde_paper, "antithetic_times", lambda g, *_: torch.full((g,), 0.5))
    plain, annealed = (build(anneal_power=power) for power in (0.0, 2.0))
    batch = molecule_batch(DRUGS[:4])
    metrics = [objective(batch, encoders, seeded()).metrics for encoders, objective in (plain, annealed)]
    for name, std in (("position_score", 0.2**0.5), ("graph_score_adj", 0.1**0.5)):
        assert (metrics[1][name] / metrics[0][name]).item() == pytest.approx(std**2, rel=1e-4)


@pytest.mark.parametrize("name", POSITION_SDES)
@pytest.mark.parametrize("variant", ["01", "02"])
def test_awkward_molecules_train_under_every_equation(name, variant):
    encoders, objective = build(position_sde=name, graph_sde=name, position_variant=variant)
    for smiles in (AWKWARD, ["C"], ["CC"], ["[Na+].[Cl-]"]):
        output = objective(molecule_batch(smiles), encoders, seeded())
        output.loss.backward()
        assert output.loss.isfinite()
    assert all(g is not None and g.isfinite().all() for g in gradients(encoders, objective).values())


@pytest.mark.parametrize("level", ["atom", "molecule"])
@pytest.mark.parametrize("name", CONTRASTIVE)
def test_every_contrast_trains_at_every_level(name, level):
    encoders, objective = build(contrastive=name, contrastive_level=level, num_negatives=2)
    objective(molecule_batch(DRUGS[:4]), encoders, seeded()).loss.backward()
    assert gradients(encoders)["encoder_3d.head.2.weight"].abs().sum() > 0


def test_molecules_are_contrasted_by_their_readouts():
    encoders, objective = (module.eval() for module in build(contrastive_level="molecule"))
    batch = molecule_batch(DRUGS[:5], [True, False, True, True, True])
    metrics = objective(batch, encoders, seeded(4)).metrics
    z_2d = encoders.encoder_2d(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
    z_3d = encoders.encoder_3d(batch.x[:, 0], batch.pos, batch.batch)
    x, y = (torch.stack([z[batch.batch == b].mean(0) for b in (0, 2, 3, 4)]) for z in (z_2d, z_3d))
    loss, accuracy = ebm_nce(x, y, 0.1, seeded(4))
    torch.testing.assert_close(metrics["contrastive"], loss)
    torch.testing.assert_close(metrics["contrastive_accuracy"], accuracy)


@pytest.mark.parametrize("mode", ["autocast", "bfloat16"])
def test_bfloat16_networks_give_nearly_the_same_losses(mode):
    encoders, objective = build()
    batch = molecule_batch(DRUGS)
    exact = objective(batch, encoders, seeded()).metrics
    if mode == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = objective(batch, encoders, seeded())
    else:
        output = objective.bfloat16()(batch, encoders.bfloat16(), seeded())
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert all(g.isfinite().all() for g in gradients(encoders, objective).values())
    for name, value in exact.items():
        assert output.metrics[name].item() == pytest.approx(value.item(), rel=0.1, abs=0.05), name


def test_learning_rate_groups_are_the_papers():
    _, objective = build(gnn_2d_lr_scale=1.0, gnn_3d_lr_scale=0.1)
    scales = {
        "encoders.encoder_2d.layers.0.eps": 1.0,
        "encoders.encoder_3d.head.0.weight": 0.1,
        "objective.position_score.node.weight": 1.0,
        "objective.graph_score.node.final.0.weight": 0.1,
    }
    assert {name: objective.learning_rate_scale(name) for name in scales} == scales


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"position_sde": "VE4"}, "position_sde=VE4: expected one of VE, VP"),
        ({"graph_sde": "no"}, "graph_sde=no"),
        ({"contrastive": "clip"}, "contrastive=clip: expected one of ebm_nce, ebm_nce_shift, info_nce"),
        ({"position_variant": "2"}, "position_variant=2: expected one of 01, 02"),
        ({"contrastive_level": "node"}, "contrastive_level=node: expected one of atom, molecule"),
        ({"max_hops": 0}, "max_hops=0: expected at least 1"),
        ({"num_negatives": 0}, "num_negatives=0: expected at least 1"),
        ({"temperature": float("nan")}, "temperature=nan: expected a finite number"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        PaperMoleculeSDEConfig(**values)


def test_wrong_models_are_named():
    model = paper_tiny()
    with pytest.raises(ConfigError, match=r"same width: got 48 for the 2D and 64 for the 3D"):
        PaperMoleculeSDE(PaperMoleculeSDEConfig(), replace(model, gin=replace(model.gin, hidden=48)), Labels.unknown())
    with pytest.raises(ConfigError, match=r"two 2D encoders, gin and graph_transformer.*model/encoder_2d="):
        replace(model, graph_transformer={})
    with pytest.raises(ConfigError, match=r"no 3D encoder.*model/encoder_3d=, of schnet, painn"):
        PaperMoleculeSDE(PaperMoleculeSDEConfig(), replace(model, schnet=None), Labels.unknown())
    with pytest.raises(ConfigError, match=r"objective=moleculesde_paper needs model.graph_score.*model=paper"):
        build_objective(objective_config("moleculesde_paper"), replace(model, graph_score=None), Labels.unknown())
    with pytest.raises(ConfigError, match=r"no objective.*moleculesde, moleculesde_paper"):
        build_objective(ObjectiveConfig(), model, Labels.unknown())


def test_a_small_model_overfits_32_molecules():
    encoders, objective = build()
    batch = molecule_batch(DRUGS)
    parameters = [*encoders.parameters(), *objective.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    history = []
    for step in range(150):
        optimizer.zero_grad()
        output = objective(batch, encoders, seeded(step))
        output.loss.backward()
        optimizer.step()
        history.append(output.metrics)
    first, last = (
        {name: torch.stack([metrics[name] for metrics in part]).mean().item() for name in history[0]}
        for part in (history[:10], history[-10:])
    )
    assert last["contrastive"] < 0.4 * first["contrastive"]
    assert last["contrastive_accuracy"] > 0.9
    assert last["position_score"] < 0.85 * first["position_score"]
    assert last["graph_score_x"] < 0.5 * first["graph_score_x"]
    assert last["graph_score_adj"] < 0.9 * first["graph_score_adj"]
