"""The reference of MoleBLEND against its specification: counts, cases by hand, symmetries and awkward molecules."""

import math
from dataclasses import replace
from functools import cache

import networkx as nx
import numpy as np
import pytest
import torch

from benchmarks.reference.moleblend import ReferenceMoleBLEND, bond_classes, noise_loss, spd_classes
from benchmarks.reference.moleblend_graph import (
    DISTANCE,
    EDGE,
    SPD,
    UNREACHABLE,
    Draws,
    Padded,
    collate,
    draw,
    floyd_warshall,
    path,
)
from tests.support.molecules import AWKWARD, DRUGS, molecule_batch, num_parameters, rotation, seeded

pytestmark = pytest.mark.slow  # It changes only when its specification is read again.

CHAIN = "C" * 25
SMALL, LARGE = "C=CC=O", DRUGS[0]


def padded_of(*smiles: str, has_pos: list[bool] | None = None) -> Padded:
    batch = molecule_batch(smiles, has_pos)
    return collate(replace(batch, pos=batch.pos.double()))


def small(seed: int = 0, **options: str) -> ReferenceMoleBLEND:
    """Two layers, with weights large enough for every part to matter."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ReferenceMoleBLEND(layers=2, width=24, ffn=20, heads=4, kernels=8, **options).double()
        for name, parameter in model.named_parameters():
            if not name.startswith("encoder.gaussian") and parameter.dim() > 1:
                parameter.data.mul_(10)
    return model


def part(draws: Draws, g: int, n: int) -> Draws:
    """The draws of one molecule, without padding."""
    return Draws(draws.pairs[g : g + 1, :n, :n], draws.atoms[g : g + 1, :n], draws.noise[g : g + 1, :n])


@cache
def papers_sizes(target: str = "distance") -> ReferenceMoleBLEND:
    with torch.device("meta"):
        return ReferenceMoleBLEND(target=target)


def test_the_encoder_has_the_papers_sizes():
    encoder = papers_sizes().encoder
    tables = num_parameters(encoder.embedding) + encoder.cls.numel()
    bias_2d = num_parameters(encoder.graph) + encoder.cls_bias.numel()
    parts = num_parameters(encoder.layers), tables, bias_2d, num_parameters(encoder.gaussian)
    assert [round(count / 1e6, 2) for count in parts] == [42.56, 4.33, 0.20, 0.12]
    assert sum(parts) + num_parameters(encoder.norm) == num_parameters(encoder) == 47_207_648


def test_the_heads_have_the_papers_sizes():
    """With the released code's heads, which ours differ from in counts stated here, the total is 50.1 million."""
    model = papers_sizes("direction")
    transform = 2 * (768 * 32 + 32) + 2 * 2 * 32
    assert num_parameters(model.spd_head) == transform + 1024 * 11 + 11
    assert num_parameters(model.edge_head) == transform + 1025 * 5 * 60
    assert num_parameters(model.head_3d) == transform + 1025 * 256 + 3 * 257
    assert num_parameters(model.noise_head) == 3 * (768 * 768 + 768) + 768
    assert num_parameters(papers_sizes().head_3d) == transform + 1024 + 1
    graph_head, noise_axes, bond_classes_less = 768 * 768 + 768 + 2 * 768 + 769, 2 * 768 + 3, 1025 * 5 * 36
    assert round((num_parameters(model) + graph_head + noise_axes - bond_classes_less) / 1e6, 1) == 50.1


def test_initial_values():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ReferenceMoleBLEND(layers=1, width=64, heads=4)
    gaussian = model.encoder.gaussian
    for parameter in (gaussian.means, gaussian.widths):
        assert 0 <= parameter.min() < 0.3 < 2.7 < parameter.max() <= 3
    assert (gaussian.mul.weight[1:] == 0.5).all()
    assert (gaussian.bias.weight == 0).all()
    assert model.encoder.graph.hops.std().item() == pytest.approx(0.02, rel=0.05)
    for table in (module for module in model.modules() if isinstance(module, torch.nn.Embedding)):
        assert (table.weight[0] == 0).all()
    linear = model.encoder.layers[0].ffn_in
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (linear.bias == 0).all()


def test_distances_and_paths_of_benzene():
    padded = padded_of("c1ccccc1")
    steps = (torch.arange(6).unsqueeze(1) - torch.arange(6)).abs()
    assert torch.equal(padded.spd[0], torch.minimum(steps, 6 - steps))
    _, via = floyd_warshall(padded.spd[0].numpy() == 1)
    assert path(0, 3, via) == [(0, 1), (1, 2), (2, 3)]
    assert path(1, 4, via) == [(1, 2), (2, 3), (3, 4)]
    assert path(2, 5, via) == [(2, 1), (1, 0), (0, 5)]


@pytest.mark.parametrize("seed", range(30))
def test_paths_follow_the_closed_rule_of_ties(seed):
    """The vertex is the smallest, over all shortest paths, of the largest inside a path (3.4)."""
    graph = nx.gnm_random_graph(10, 6 + seed % 10, seed=seed)
    spd, via = floyd_warshall(nx.to_numpy_array(graph) > 0)
    lengths = dict(nx.all_pairs_shortest_path_length(graph))
    expected = [[lengths[i].get(j, UNREACHABLE) for j in graph] for i in graph]
    np.testing.assert_array_equal(spd, expected)

    def ruled(i: int, j: int) -> list[tuple[int, int]]:
        if graph.has_edge(i, j):
            return [(i, j)]
        k = min(max(nodes[1:-1]) for nodes in nx.all_shortest_paths(graph, i, j))
        return ruled(i, k) + ruled(k, j)

    for i, j in np.argwhere((spd > 0) & (spd < UNREACHABLE)).tolist():
        assert path(i, j, via) == ruled(i, j)


def test_indices_of_a_chain_with_a_double_bond():
    padded = padded_of("C=CC", LARGE)
    double, single, absent = [1 + 3, 0 + 515, 0 + 1027], [0 + 3, 0 + 515, 0 + 1027], [0, 0, 0]
    assert padded.path_bonds[0, 0, 2].tolist() == [double, single, absent, absent, absent]
    assert padded.path_bonds[0, 2, 0].tolist() == [single, double, absent, absent, absent]
    assert not padded.path_bonds[0, 0, 0].any()
    assert padded.degree[0].tolist() == [2, 3, 2] + [0] * (padded.mask.shape[1] - 3)
    assert padded.atoms[0, 0, :3].tolist() == [5 + 2, 0 + 514, 3 + 1026]
    assert padded.pair_types[0, 0, 1].tolist() == [5 + 3, 5 + 515]
    assert padded.pair_types[0, 0, 3].tolist() == [1, 513]
    assert padded.mask.sum(1).tolist() == [3, 13]


def test_edge_relation_of_one_pair():
    padded, graph = padded_of("C=CC"), small().encoder.graph
    table = graph.edge.weight
    first = (table[4] + table[515] + table[1027]) / 3
    second = (table[3] + table[515] + table[1027]) / 3
    expected = (first @ graph.hops[0] + second @ graph.hops[1]) / 2
    relation = graph.phi_edge(padded)
    torch.testing.assert_close(relation[0, 0, 2], expected)
    assert not relation[0, 1, 1].any()


def test_only_five_hops_count_and_none_without_a_path():
    padded, graph = padded_of(CHAIN, "[Na+].[Cl-]"), small().encoder.graph
    relation = graph.phi_edge(padded)
    torch.testing.assert_close(relation[0, 0, 5], relation[0, 0, 24])
    assert not relation[1, 0, 1].any()
    torch.testing.assert_close(graph.phi_spd(padded)[1, 0, 1], graph.spd.weight[511])
    torch.testing.assert_close(graph.phi_spd(padded)[0, 0, 24], graph.spd.weight[25])


def test_gaussians_of_one_pair():
    padded, gaussian = padded_of("CO"), small().encoder.gaussian
    with torch.no_grad():
        gaussian.mul.weight.normal_(generator=seeded())
        gaussian.bias.weight.normal_(generator=seeded(1))
    carbon, oxygen = 5 + 3, 7 + 515
    d = (padded.pos[0, 0] - padded.pos[0, 1]).norm().item()
    z = d * (gaussian.mul.weight[carbon] + gaussian.mul.weight[oxygen]).item()
    z += (gaussian.bias.weight[carbon] + gaussian.bias.weight[oxygen]).item()
    mean, width = z + 0.3, 0.5 + 0.01
    gaussian.means.data[3], gaussian.widths.data[3] = mean, -0.5
    density = math.exp(-((z - mean) ** 2) / (2 * width**2)) / (width * math.sqrt(2 * math.pi))
    psi = gaussian.psi(padded, padded.pos)
    assert psi[0, 0, 1, 3].item() == pytest.approx(density, rel=1e-5)
    torch.testing.assert_close(gaussian.atom_feature(padded, psi)[0, 1], gaussian.atoms(psi[0, 1, 0] + psi[0, 1, 1]))


def test_bias_of_cls_and_of_padding():
    padded, encoder = padded_of("CO", "CCO"), small().encoder
    relation = torch.rand(2, 3, 3, 4, dtype=torch.float64, generator=seeded())
    bias, t = encoder.bias(padded, relation), encoder.cls_bias
    torch.testing.assert_close(bias[1, 1:, 1:], relation[1])
    torch.testing.assert_close(bias[0, 1:3, 1:3], relation[0, :2, :2])
    torch.testing.assert_close(bias[1, 0], t.expand(4, 4))
    torch.testing.assert_close(bias[1, :, 0], t.expand(4, 4))
    assert (bias[0, :, 3] == -math.inf).all()
    assert bias[0, 3, :3].isfinite().all()


def test_classes():
    assert spd_classes(torch.tensor([1, 2, 10, 11, 12, 24, 300])).tolist() == [0, 1, 9, 10, 10, 10, 10]
    features = torch.tensor([[0, 0, 0], [1, 2, 1], [3, 0, 1], [4, 5, 1]])
    indices = features + 3 + 512 * torch.arange(3)
    assert bond_classes(indices).tolist() == [0, 17, 37, 59]


def test_a_layer_is_torchs_post_norm_layer():
    layer = small().encoder.layers[0]
    theirs = torch.nn.TransformerEncoderLayer(24, 4, 20, dropout=0.0, activation="gelu", batch_first=True).double()
    names = {"self_attn.out_proj": layer.output, "linear1": layer.ffn_in, "linear2": layer.ffn_out}
    names |= {"norm1": layer.attention_norm, "norm2": layer.ffn_norm}
    state = {f"{name}.{key}": value for name, module in names.items() for key, value in module.state_dict().items()}
    projections = layer.attention.query, layer.attention.key, layer.attention.value
    for kind in ("weight", "bias"):
        state[f"self_attn.in_proj_{kind}"] = torch.cat([getattr(part, kind) for part in projections])
    theirs.load_state_dict(state, strict=True)
    x = torch.randn(2, 5, 24, generator=seeded(), dtype=torch.float64)
    bias = torch.randn(2, 5, 5, 4, generator=seeded(1), dtype=torch.float64)
    torch.testing.assert_close(layer(x, bias), theirs(x, bias.permute(0, 3, 1, 2).flatten(0, 1)))


def test_the_outer_product_has_the_row_index_first():
    head = small().head_3d
    h = torch.randn(1, 3, 24, generator=seeded(), dtype=torch.float64)
    head.output.weight.data.zero_()
    head.output.weight.data[0, 32 * 3 + 5] = 1
    r = head.row_norm(torch.nn.functional.gelu(head.row(h)))[0, 1, 3]
    c = head.column_norm(torch.nn.functional.gelu(head.column(h)))[0, 2, 5]
    torch.testing.assert_close(head(h)[0, 1, 2], torch.log(1 + torch.exp(r * c)))


def test_predicted_noise_of_two_atoms():
    padded, head = padded_of("CO"), small().noise_head
    h = torch.randn(1, 2, 24, generator=seeded(), dtype=torch.float64)
    bias = torch.randn(1, 2, 2, 4, generator=seeded(1), dtype=torch.float64)
    probabilities, values = head.attention(h, bias)
    difference = padded.pos[0, 1] - padded.pos[0, 0]
    unit = difference / (difference.norm() + 1e-5)
    weighted = (probabilities[0, :, 0, 1, None] * values[0, :, 1]).flatten()
    torch.testing.assert_close(head(h, bias, padded.pos)[0, 0], (head.output.weight[0] @ weighted) * unit)


def test_noise_loss_is_a_mean_over_atoms_that_show_3d():
    padded = padded_of("CCO", "C", "CO", has_pos=[True, True, False])
    noise = torch.randn(3, 3, 3, generator=seeded(), dtype=torch.float64)
    atoms = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    predicted = noise.clone()
    predicted[0, 1] *= -2
    predicted[0, 2] = 7
    predicted[1, 0] = 0
    draws = Draws(torch.zeros_like(padded.spd), atoms, noise)
    assert noise_loss(predicted, padded, draws).item() == pytest.approx((0 + 2) / 2)


def test_losses_of_heads_that_know_nothing():
    """Uniform classes, and softplus(0) angstrom: the means of section 8, computed molecule by molecule."""
    padded, model = padded_of(SMALL, "C", CHAIN, has_pos=[True, True, False]), small()
    for head in (model.spd_head, model.edge_head, model.head_3d):
        head.output.weight.data.zero_()
        head.output.bias.data.zero_()
    _, terms = model(padded, draw(padded, seeded()))
    assert terms["spd"].item() == pytest.approx(math.log(11))
    assert terms["edge"].item() == pytest.approx(math.log(60))
    pos = padded.pos[0, :4]
    errors = [abs(math.log(2) - (pos[i] - pos[j]).norm().item()) for i in range(4) for j in range(4) if i != j]
    huber = [error**2 / 2 if error < 1 else error - 0.5 for error in errors]
    assert terms["distance"].item() == pytest.approx(sum(huber) / 12)


def test_pairs_without_a_path_are_no_part_of_the_2d_losses():
    padded = padded_of("[Na+].[Cl-]")
    terms = small()(padded, draw(padded, seeded()))[1]
    assert terms["spd"] == terms["edge"] == 0
    assert terms["distance"] > 0


def test_the_loss_is_the_weighted_sum():
    padded = padded_of(*DRUGS[9:12])
    loss, terms = small()(padded, draw(padded, seeded()))
    assert list(terms) == ["noise", "distance", "spd", "edge"]
    expected = 6 * terms["noise"] + 0.5 * terms["distance"] + 0.1 * terms["spd"] + 0.1 * terms["edge"]
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("target", ["distance", "direction"])
def test_rotation_changes_only_the_direction_target(target):
    padded, model, turn = padded_of(SMALL, LARGE), small(target=target), rotation(seeded())
    draws = draw(padded, seeded(1))
    _, terms = model(padded, draws)
    turned = padded._replace(pos=padded.pos @ turn), draws._replace(noise=draws.noise @ turn)
    _, after = model(*turned)
    for name in terms:
        assert torch.isclose(after[name], terms[name], rtol=1e-9, atol=0) == (name != "direction"), name


def test_predicted_noise_turns_with_the_molecule():
    padded, head, turn = padded_of(LARGE), small().noise_head, rotation(seeded())
    h = torch.randn(1, 13, 24, generator=seeded(), dtype=torch.float64)
    bias = torch.randn(1, 13, 13, 4, generator=seeded(1), dtype=torch.float64)
    torch.testing.assert_close(head(h, bias, padded.pos @ turn), head(h, bias, padded.pos) @ turn)


@pytest.mark.parametrize("loss_on", ["all", "hidden"])
@pytest.mark.parametrize("target", ["distance", "direction"])
def test_padding_changes_no_term(target, loss_on):
    """The terms of two molecules are the means of theirs alone, weighted by what is counted."""
    model, both = small(target=target, loss_on=loss_on), padded_of(SMALL, LARGE)
    draws = draw(both, seeded())
    _, terms = model(both, draws)
    alone = [model(padded_of(smiles), part(draws, g, n))[1] for g, (smiles, n) in enumerate([(SMALL, 4), (LARGE, 13)])]
    pairs, hops = both.different, both.path_bonds[..., 0] > 0
    if loss_on == "hidden":
        pairs, hops = pairs & (draws.pairs != SPD), hops & (draws.pairs != EDGE).unsqueeze(3)
    atoms = (draws.atoms & both.mask).sum(1)
    counts = {"noise": atoms, target: [1, 1], "spd": pairs.sum((1, 2)), "edge": hops.sum((1, 2, 3))}
    for name, (a, b) in counts.items():
        expected = (a * alone[0][name] + b * alone[1][name]) / (a + b)
        torch.testing.assert_close(terms[name], expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("modality", ["2d", "3d", "both"])
def test_padding_changes_no_state_in_transfer(modality):
    model = small()
    atoms, cls = model.transfer(padded_of(SMALL, LARGE), modality)
    atoms_alone, cls_alone = model.transfer(padded_of(SMALL), modality)
    torch.testing.assert_close(atoms[:1, :4], atoms_alone)
    torch.testing.assert_close(cls[:1], cls_alone)


def test_transfer_reads_only_its_modality():
    model, padded = small(), padded_of(LARGE)
    moved = padded._replace(pos=2 * padded.pos)
    unbonded = padded._replace(spd=padded.spd * 2, path_bonds=padded.path_bonds * 0, degree=padded.degree + 1)
    states = {name: model.transfer(padded, name)[1] for name in ("2d", "3d", "both")}
    for name, cls in states.items():
        assert torch.equal(model.transfer(moved, name)[1], cls) == (name == "2d")
        assert torch.equal(model.transfer(unbonded, name)[1], cls) == (name == "3d")


def test_both_modalities_without_positions_are_the_2d_one():
    model, padded = small(), padded_of(SMALL, has_pos=[False])
    assert torch.equal(model.transfer(padded, "both")[1], model.transfer(padded, "2d")[1])


@pytest.mark.parametrize("shown", [SPD, EDGE, DISTANCE])
def test_relations_that_are_not_shown_get_no_gradient(shown):
    model, padded = small(), padded_of(*DRUGS[9:11])
    draws = draw(padded, seeded())._replace(pairs=torch.full_like(padded.spd, shown))
    model(padded, draws)[0].backward()
    encoder = model.encoder
    of_relation = {SPD: encoder.graph.spd.weight, EDGE: encoder.graph.hops, DISTANCE: encoder.gaussian.heads.weight}
    for relation, parameter in of_relation.items():
        assert parameter.grad is not None
        assert parameter.grad.any() == (relation == shown)


@pytest.mark.parametrize(("shown", "term"), [(SPD, "spd"), (EDGE, "edge"), (DISTANCE, "distance")])
def test_hidden_pairs_alone_count_where_asked(shown, term):
    """Nothing is left of a term if all pairs show its relation, and all of it if none does."""
    padded, hidden, everything = padded_of(*DRUGS[9:11]), small(loss_on="hidden"), small()
    draws = draw(padded, seeded())._replace(pairs=torch.full_like(padded.spd, shown))
    terms, expected = hidden(padded, draws)[1], everything(padded, draws)[1]
    for name in terms:
        assert terms[name] == (0 if name == term else expected[name]), name


def test_draws_follow_the_probabilities():
    padded = padded_of(*[CHAIN] * 12, has_pos=[True] * 6 + [False] * 6)
    draws = draw(padded, seeded())
    for g, probabilities in ((slice(6), (0.2, 0.2, 0.6)), (slice(6, 12), (0.5, 0.5, 0.0))):
        for relation, p in enumerate(probabilities):
            deviation = math.sqrt(p * (1 - p) / draws.pairs[g].numel())
            assert abs((draws.pairs[g] == relation).double().mean().item() - p) <= 4 * deviation
    assert not draws.atoms[6:].any()
    assert abs(draws.atoms[:6].double().mean().item() - 0.6) < 4 * math.sqrt(0.24 / 150)
    assert draws.noise.std().item() == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize(("target", "loss_on"), [("distance", "all"), ("direction", "hidden")])
@pytest.mark.parametrize(
    ("smiles", "has_pos"),
    [
        (["C"], [True]),
        (["CC(=O)[O-].[Na+]", "[Na+].[Cl-]"], [True, True]),
        ([CHAIN], [True]),
        ([LARGE], [False]),
        ([*AWKWARD, LARGE, SMALL], [True, False] * 6),
        (["C/C=C/C", "C/C=C\\C", "C[N+](C)(C)[O-]"], [True] * 3),
    ],
    ids=["single atom", "salts", "chain of 25", "no positions", "mixed", "stereo and charges"],
)
def test_awkward_molecules_have_finite_losses_and_gradients(smiles, has_pos, target, loss_on):
    padded, model = padded_of(*smiles, has_pos=has_pos), small(target=target, loss_on=loss_on)
    loss, terms = model(padded, draw(padded, seeded()))
    assert all(term.isfinite() for term in terms.values())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    if len(smiles) == 1 and not has_pos[0]:
        assert terms["noise"] == terms[target] == 0
    if smiles == ["C"]:
        assert loss == 0
