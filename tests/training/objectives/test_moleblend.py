"""MoleBLEND: what is true, losses and what they are taken over, symmetry, odd molecules, and the parts of a model."""

import itertools
from dataclasses import replace

import networkx as nx
import pytest
import torch
import torch.nn.functional as F

from molstream.errors import ConfigError
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.labels import Labels
from molstream.training.diffusion.bond_transformer import NUM_BOND_CLASSES, NUM_CHARGE_CLASSES
from molstream.training.models.blending import DISTANCE, PATH_BONDS, PATH_LENGTH
from molstream.training.models.encoders import Encoders
from molstream.training.models.graph import molecule_pairs
from molstream.training.objectives.config import BlendConfig, MoleBLENDConfig, MoleculeSDEConfig, ObjectiveConfig
from molstream.training.objectives.moleblend import MAX_HOPS, NUM_BONDS, NUM_LENGTHS, UNKNOWN, MoleBLEND, truth
from molstream.training.objectives.table import build_objective
from tests.support.molecules import (
    AWKWARD,
    DRUGS,
    model_config,
    molecule_batch,
    num_parameters,
    objective_config,
    rotation,
    seeded,
    with_pos,
)

ODD = ("C" * 30, "C1CCCCCCCCCCCCCCCCCCCCC1", "CC(=O)[O-].[Na+]", "C", "[He]", r"C/C=C\C", "F/C=C/F")
"""Paths of 29 bonds, a ring of 22, fragments, single atoms, cis and trans."""
PRESETS = ["moleblend_tiny", "moleblend_paper_tiny"]
ALL_SHOWN = BlendConfig(path_length=0.0, path_bonds=0.0, distance=1.0, surroundings=1.0)
"""Nothing is drawn: all distances and surroundings are shown."""


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def build(preset: str = "moleblend_tiny", dtype=torch.float64, **options) -> tuple[MoleBLEND, Encoders]:
    config = MoleBLENDConfig(**options)
    model = model_config(preset)
    return MoleBLEND(config, model, Labels.unknown()).to(dtype).eval(), Encoders(model).to(dtype).eval()


def in_double(smiles, has_pos=None) -> MoleculeBatch:
    batch = molecule_batch(smiles, has_pos)
    return with_pos(batch, batch.pos.double())


def test_path_lengths_and_bonds_are_those_of_the_graph():
    batch = molecule_batch([*DRUGS[:6], *AWKWARD, *ODD])
    pairs = molecule_pairs(batch.batch)
    found = truth(batch, pairs)
    graph = nx.Graph()
    graph.add_nodes_from(range(batch.num_nodes))
    for (i, j), bond in zip(batch.edge_index.T.tolist(), batch.edge_attr.tolist(), strict=True):
        graph.add_edge(i, j, kind=bond[0] * 12 + bond[1] * 2 + bond[2])
    lengths = dict(nx.all_pairs_shortest_path_length(graph))
    for row, (i, j) in enumerate(torch.cat([pairs, pairs.flip(0)], dim=1).T.tolist()):
        length = lengths[i].get(j)
        bonds = found.bonds[row].tolist()
        assert found.length[row] == (UNKNOWN if length is None else min(length, NUM_LENGTHS) - 1)
        if length is None:
            assert bonds == [UNKNOWN] * MAX_HOPS
            continue
        assert [kind != UNKNOWN for kind in bonds] == [hop < length for hop in range(MAX_HOPS)]
        paths = nx.all_shortest_paths(graph, i, j)
        kinds = ([graph.edges[edge]["kind"] for edge in itertools.pairwise(path)][:MAX_HOPS] for path in paths)
        assert [kind for kind in bonds if kind != UNKNOWN] in list(kinds)
    torch.testing.assert_close(found.vector[: pairs.shape[1]], batch.pos[pairs[1]] - batch.pos[pairs[0]])


@pytest.mark.parametrize("preset", PRESETS)
def test_losses_start_where_nothing_is_known(preset):
    objective, encoders = build(preset)
    metrics = objective(in_double(DRUGS), encoders, seeded(1)).metrics
    assert abs(metrics["path_length"] - torch.tensor(float(NUM_LENGTHS)).log()) < 0.4
    assert abs(metrics["path_bonds"] - torch.tensor(float(NUM_BONDS)).log()) < 0.5
    assert abs(metrics["noise"] - 1.0) < 0.3


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("geometry", ["distance", "direction"])
@pytest.mark.parametrize("loss_on", ["all", "hidden"])
def test_odd_molecules_have_finite_losses_and_gradients(preset, geometry, loss_on):
    objective, encoders = build(preset, torch.float32, geometry=geometry, loss_on=loss_on)
    smiles = [*DRUGS[:4], *AWKWARD, *ODD]
    batch = molecule_batch(smiles, [number % 3 > 0 for number in range(len(smiles))])
    objective.train()
    output = objective(batch, encoders.train(), seeded(1))
    output.loss.backward()
    assert all(torch.isfinite(value) for value in output.metrics.values())
    for name, parameter in [*objective.named_parameters(), *encoders.named_parameters()]:
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("smiles", [["C"], ["C", "[He]"], ["[Na+].[Cl-]"]])
@pytest.mark.parametrize("has_pos", [True, False])
def test_a_batch_without_pairs_or_bonds_or_positions_has_a_gradient(preset, smiles, has_pos):
    objective, encoders = build(preset, torch.float32)
    output = objective(molecule_batch(smiles, [has_pos] * len(smiles)), encoders, seeded(1))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(p.grad).all() for p in [*objective.parameters(), *encoders.parameters()])


def test_losses_are_means_over_what_they_say():
    """Of logits and labels that a loop over pairs takes one by one."""
    objective, encoders = build(loss_on="hidden")
    batch = in_double([*DRUGS[:3], *AWKWARD], [True, False, True] + [True, False] * 5)
    found = objective.recover(batch, encoders, seeded(4))
    terms = objective.terms(batch, encoders, seeded(4))
    lengths, bonds, by_molecule = [], [], {}
    for row, molecule in enumerate(found.molecule.tolist()):
        relation = int(found.blend.relation[row])
        if relation != PATH_LENGTH and found.truth.length[row] != UNKNOWN:
            lengths.append(F.cross_entropy(found.length[row], found.truth.length[row]))
        if relation != PATH_BONDS:
            hops = (hop for hop in range(MAX_HOPS) if found.truth.bonds[row, hop] != UNKNOWN)
            bonds += [F.cross_entropy(found.bonds[row, hop], found.truth.bonds[row, hop]) for hop in hops]
        if relation != DISTANCE and batch.has_pos[molecule]:
            error = (found.geometry[row] - found.truth.vector[row].norm()).abs()
            huber = 0.5 * error**2 if error < 1.0 else error - 0.5
            by_molecule.setdefault(molecule, []).append(huber)
    shown = (found.blend.surroundings & (batch.ptr.diff() > 1)[batch.batch]).nonzero().flatten()
    cosines = [F.cosine_similarity(found.direction[k], found.noise[k], dim=0) for k in shown]
    expected = {
        "path length": torch.stack(lengths).mean(),
        "path bonds": torch.stack(bonds).mean(),
        "distance": torch.stack([torch.stack(losses).mean() for losses in by_molecule.values()]).mean(),
        "noise": 1.0 - torch.stack(cosines).mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name].loss, value, rtol=1e-10, atol=1e-12)
    weights = {name: term.coefficient for name, term in terms.items()}
    assert weights == {"noise": 6.0, "distance": 0.5, "path length": 0.1, "path bonds": 0.1}


@pytest.mark.parametrize("preset", PRESETS)
def test_motions_of_positions_change_only_the_direction_of_the_noise(preset):
    objective, encoders = build(preset)
    batch, matrix = in_double(DRUGS[:5]), rotation(seeded(3))
    found = objective.recover(batch, encoders, seeded(2))
    # The same noise, turned as the molecule is.
    noised = with_pos(batch, (batch.pos + found.noise) @ matrix.T + 3.0)
    still, _ = build(preset, position_noise=0.0)
    still.load_state_dict(objective.state_dict())
    turned = still.recover(noised, encoders, seeded(2))
    for name in ("length", "bonds", "geometry"):
        torch.testing.assert_close(getattr(turned, name), getattr(found, name), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(turned.direction, found.direction @ matrix.T, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("preset", PRESETS)
def test_predictions_of_a_molecule_do_not_depend_on_the_batch(preset):
    objective, encoders = build(preset, blend=ALL_SHOWN, position_noise=0.0)
    smiles = [DRUGS[0], *AWKWARD, *ODD]
    alone = objective.recover(in_double(smiles[:1]), encoders, seeded(1))
    batch = in_double(smiles)
    together = objective.recover(batch, encoders, seeded(2))
    rows = together.molecule == 0
    for name in ("length", "bonds", "geometry"):
        torch.testing.assert_close(getattr(together, name)[rows], getattr(alone, name), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(together.direction[batch.batch == 0], alone.direction, rtol=1e-9, atol=1e-10)


def test_molecules_without_positions_leave_the_losses_of_positions_alone():
    objective, encoders = build()
    smiles = [*DRUGS[:4], *DRUGS[4:8]]
    batch = in_double(smiles, [True] * 4 + [False] * 4)
    found = objective.recover(batch, encoders, seeded(1))
    assert not (found.blend.relation[: len(found.molecule)][~batch.has_pos[found.molecule]] == DISTANCE).any()
    elsewhere = torch.where(batch.has_pos[batch.batch].unsqueeze(1), batch.pos, 7.0 * torch.rand_like(batch.pos))
    first = objective(batch, encoders, seeded(1)).metrics
    second = objective(with_pos(batch, elsewhere), encoders, seeded(1)).metrics
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-12, atol=1e-13)


def test_the_published_model_has_its_size():
    """50.1 M in the paper: with the head of the graph, which no loss reads, and the smaller vocabulary of bonds."""
    model = model_config("moleblend_paper")
    with torch.device("meta"):
        objective = MoleBLEND(MoleBLENDConfig(geometry="direction"), model, Labels.unknown())
        size = num_parameters(objective) + num_parameters(Encoders(model))
    head_of_graph = 768 * 768 + 768 + 2 * 768 + 768 + 1
    bonds_left_out = MAX_HOPS * (NUM_BONDS - 24) * (32 * 32 + 1)
    assert size + head_of_graph - bonds_left_out == pytest.approx(50.1e6, abs=0.05e6)


def test_probabilities_are_checked():
    for length, bonds, distance in ((0.7, 0.2, 0.1), (0.2, 0.7, 0.1), (0.6, 0.3, 0.1), (0.3, 0.6, 0.1)):
        assert BlendConfig(path_length=length, path_bonds=bonds, distance=distance).probabilities()[0] == length
    with pytest.raises(ConfigError, match=r"path_length=0.5, path_bonds=0.2 and distance=0.6 .*expected a sum of 1"):
        BlendConfig(path_length=0.5)


def test_it_needs_an_encoder_of_both_modalities():
    config = objective_config("moleblend")
    with pytest.raises(ConfigError, match=r"no encoder of both modalities: choose model=moleblend_small"):
        build_objective(config, model_config("tiny"), Labels.unknown())
    with pytest.raises(ConfigError, match=r"two 2D encoders, gin and blend_transformer: set one of them to null\."):
        replace(model_config("moleblend_tiny"), gin=model_config("paper_tiny").gin)


def test_objectives_share_the_encoder():
    model = model_config("moleblend_tiny")
    config = ObjectiveConfig(moleblend=MoleBLENDConfig(), moleculesde=MoleculeSDEConfig(projection=16))
    objective, encoders = build_objective(config, model, Labels.unknown()), Encoders(model)
    output = objective(molecule_batch([*DRUGS[:4], *AWKWARD]), encoders, seeded(1))
    output.loss.backward()
    assert {"moleblend/noise", "moleblend/path_length", "moleculesde/position_score"} <= output.metrics.keys()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoders.parameters())


def test_a_shared_encoder_is_generated_from():
    model = model_config("moleblend_tiny")
    config = ObjectiveConfig(moleblend=MoleBLENDConfig(), moleculesde=MoleculeSDEConfig(projection=16))
    objective, encoders = build_objective(config, model, Labels.unknown()).eval(), Encoders(model).eval()
    batch = molecule_batch(DRUGS[:4])
    time = torch.tensor(0.5)
    with torch.no_grad():
        [of_positions] = objective.conformer_distribution(batch, encoders).score((batch.pos,), time)
        pairs = molecule_pairs(batch.batch).shape[1]
        bonds = torch.zeros(pairs, NUM_BOND_CLASSES), torch.zeros(batch.num_nodes, NUM_CHARGE_CLASSES)
        scores = objective.bond_distribution(batch, encoders).score(bonds, time)
    assert of_positions.shape == batch.pos.shape
    assert [score.shape for score in scores] == [part.shape for part in bonds]
    assert all(torch.isfinite(score).all() for score in (of_positions, *scores))


@pytest.mark.slow
def test_sixteen_molecules_are_learned_by_heart():
    """With weights of about one: the published ones leave path lengths a thousandth of the gradient's square."""
    weights = {"noise_coefficient": 0.3, "path_length_coefficient": 1.0, "path_bonds_coefficient": 1.0}
    objective, encoders = build("moleblend_mini", torch.float32, **weights)
    batch, steps = molecule_batch(DRUGS[:16]), 1500
    parameters = [*objective.parameters(), *encoders.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        objective(batch, encoders, seeded(step)).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        found = [objective(batch, encoders, seeded(seed)).metrics for seed in range(steps, steps + 10)]
    assert sum(metrics["path_length"] for metrics in found) / len(found) < 0.01


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_low_precision_changes_losses_by_rounding(preset, precision):
    objective, encoders = build(preset, torch.float32)
    batch = molecule_batch([*DRUGS[:6], *AWKWARD, *ODD])
    expected = objective(batch, encoders, seeded(1)).metrics
    with torch.autocast("cpu", precision):
        output = objective(batch, encoders, seeded(1))
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    for name in ("noise", "distance", "path_length", "path_bonds"):
        torch.testing.assert_close(output.metrics[name], expected[name], rtol=0.02, atol=0.0)
    assert all(torch.isfinite(p.grad).all() for p in [*objective.parameters(), *encoders.parameters()])
