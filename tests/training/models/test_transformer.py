"""Transformer encoders: against a plain loop over molecules, neighbours in a batch, precision, handedness, sizes."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import networkx
import pytest
import torch

from molstream.training.data.batch import MoleculeBatch
from molstream.training.models.config import TransformerConfig
from molstream.training.models.gin import ATOM_VOCABULARY_SIZES, BOND_VOCABULARY_SIZES
from molstream.training.models.layout import bucketed
from molstream.training.models.relations import MAX_DISTANCE, MAX_HOPS, NUM_GAUSSIANS
from molstream.training.models.transformer import NUM_DEGREES, Block, GeometryTransformer, GraphTransformer, RMSNorm
from tests.support.molecules import AWKWARD, DRUGS, molecule_batch, rotation, seeded

SMALL = TransformerConfig(hidden=24, num_layers=2, num_heads=3, feed_forward=20, pair_hidden=10)
ENCODERS = {"graph": GraphTransformer, "geometry": GeometryTransformer}
MOLECULES = ("CC(=O)Nc1ccc(O)cc1", "C", "[Na+].[Cl-]", "C[C@H](N)C(=O)O", "N#N", "O=C1CCC=CC1", "[Na+].CC(=O)[O-]")


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def run(encoder, batch: MoleculeBatch, **options):
    if isinstance(encoder, GraphTransformer):
        return encoder(batch.x, batch.edge_index, batch.edge_attr, batch.batch, **options)
    dtype = torch.promote_types(encoder.atom_embedding.weight.dtype, torch.float32)
    return encoder(batch.x[:, 0], batch.pos.to(dtype), batch.batch, **options)


def chain(length: int) -> MoleculeBatch:
    """A zigzag of carbon atoms."""
    first = torch.arange(length - 1)
    edges = torch.stack([torch.stack([first, first + 1]), torch.stack([first + 1, first])], dim=2).flatten(1)
    place = torch.arange(length)
    return MoleculeBatch(
        x=torch.tensor([5, 0, 4, 5, 2, 0, 2, 0, 0]).repeat(length, 1),
        edge_index=edges,
        edge_attr=torch.zeros(edges.shape[1], 3, dtype=torch.long),
        pos=torch.stack([1.25 * place, 0.8 * (place % 2), 0.0 * place], dim=1).float(),
        has_pos=torch.ones(1, dtype=torch.bool),
        batch=torch.zeros(length, dtype=torch.long),
        ptr=torch.tensor([0, length]),
        y=torch.zeros(1, 0),
        descriptors=torch.zeros(1, 0),
        index=torch.zeros(1, dtype=torch.long),
    )


def joined(*parts: MoleculeBatch) -> MoleculeBatch:
    """One batch of all molecules of several."""
    atoms = torch.tensor([0, *(part.num_nodes for part in parts)]).cumsum(0).tolist()
    molecules = torch.tensor([0, *(part.num_graphs for part in parts)]).cumsum(0).tolist()
    cat = lambda name, dim=0: torch.cat([getattr(part, name) for part in parts], dim)  # noqa: E731
    return replace(
        parts[0],
        **{name: cat(name) for name in ("x", "edge_attr", "pos", "has_pos", "y", "index")},
        edge_index=torch.cat([part.edge_index + start for part, start in zip(parts, atoms)], 1),
        batch=torch.cat([part.batch + start for part, start in zip(parts, molecules)]),
        ptr=torch.cat([parts[0].ptr[:1], *(part.ptr[1:] + start for part, start in zip(parts, atoms))]),
    )


# --- a plain reference, one molecule at a time ----------------------------------------------------------------------


def plain_norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def plain_trunk(trunk, h, relation):
    """Blocks on atoms [n, d] of one molecule with the relation [n, n, c] of all ordered pairs."""
    for block in trunk.blocks:
        layer = block.attention.branch
        q, k, v = (plain_norm(h, block.attention.norm.weight) @ layer.qkv.weight.T).chunk(3, dim=1)
        width, mixed = h.shape[1] // layer.num_heads, []
        for head in range(layer.num_heads):
            part = slice(head * width, (head + 1) * width)
            logits = plain_norm(q[:, part], layer.gain[head]) @ plain_norm(k[:, part], 1.0).T / math.sqrt(width)
            weight = torch.exp(logits + relation @ layer.bias.weight[head])
            mixed.append((weight / weight.sum(1, keepdim=True)) @ v[:, part])
        h = h + torch.cat(mixed, dim=1) @ layer.out.weight.T
        layer = block.feed_forward.branch
        gate, value = (plain_norm(h, block.feed_forward.norm.weight) @ layer.gate_and_value.weight.T).chunk(2, dim=1)
        h = h + (gate / (1 + torch.exp(-gate)) * value) @ layer.out.weight.T
    return plain_norm(h, trunk.norm.weight)


def silu(x):
    return x / (1 + torch.exp(-x))


def plain_graph(encoder, batch):
    """Of one molecule."""
    n, relation = batch.num_nodes, encoder.relation
    graph = networkx.Graph()
    graph.add_nodes_from(range(n))
    for (i, j), kind in zip(batch.edge_index.T.tolist(), batch.edge_attr.tolist(), strict=True):
        graph.add_edge(i, j, kind=kind)
    columns = encoder.atom_embedding.weight.split([*ATOM_VOCABULARY_SIZES, NUM_DEGREES])
    degree = torch.tensor([graph.degree[i] for i in range(n)])
    h = sum(table[column] for table, column in zip(columns, [*batch.x.T, degree], strict=True))
    by_distance, *by_bond = relation.embedding.weight.split([MAX_HOPS + 3, *(s + 1 for s in BOND_VOCABULARY_SIZES)])

    def pair(i, j):
        kind = graph.edges[i, j]["kind"] if graph.has_edge(i, j) else [-1] * 3
        row = sum(table[value + 1] for table, value in zip(by_bond, kind, strict=True))
        if i == j or not networkx.has_path(graph, i, j):
            return row + by_distance[0 if i == j else MAX_HOPS + 2]
        paths = list(networkx.all_shortest_paths(graph, i, j))
        kinds = [graph.edges[step]["kind"][0] for path in paths for step in pairwise(path)]
        return row + by_distance[len(paths[0]) - 1] + relation.path.weight[:, kinds].mean(1)

    rows = torch.stack([torch.stack([pair(i, j) for j in range(n)]) for i in range(n)])
    return plain_trunk(encoder.trunk, h, silu(rows) @ relation.mix.weight.T)


def gaussians(distance, end, count):
    return torch.stack(
        [torch.exp(-0.5 * ((distance - k * end / (count - 1)) * (count - 1) / end) ** 2) for k in range(count)]
    )


def plain_geometry(encoder, batch, pos):
    """Of one molecule."""
    n, z, relation, hand = batch.num_nodes, batch.x[:, 0], encoder.relation, encoder.chirality

    def pair(i, j):
        if i == j:
            return relation.itself[0]
        basis = gaussians((pos[i] - pos[j]).norm(), MAX_DISTANCE, NUM_GAUSSIANS)
        return relation.radial.weight @ basis + relation.elements.weight[z[i]] + relation.elements.weight[z[j]]

    def handedness(i):
        sums = torch.zeros(24, 3, dtype=pos.dtype)
        for j in range(n):
            r = pos[j] - pos[i]
            if i != j and r.norm() < 5.0:
                weight = gaussians(r.norm(), 5.0, 16) @ hand.radial * 0.5 * (1 + torch.cos(r.norm() * math.pi / 5.0))
                sums = sums + (weight * hand.elements[z[j]])[:, None] * r / torch.sqrt(1 + r @ r)
        u = sums / torch.sqrt(1 + sums.square().sum(1, keepdim=True))
        return torch.stack([torch.linalg.det(u[3 * k : 3 * k + 3]) for k in range(8)])

    h = encoder.atom_embedding.weight[z]
    h = h + torch.stack([handedness(i) for i in range(n)]) @ encoder.chirality_embedding.weight.T
    rows = torch.stack([torch.stack([pair(i, j) for j in range(n)]) for i in range(n)])
    return plain_trunk(encoder.trunk, h, silu(rows) @ relation.mix.weight.T)


@pytest.mark.parametrize("name", ENCODERS)
def test_outputs_and_gradients_equal_a_plain_loop_in_float64(name):
    encoder = ENCODERS[name](SMALL).double()
    for parameter in encoder.parameters():  # gains and norms as well away from one
        parameter.data += 0.1 * torch.randn_like(parameter)
    alone = [molecule_batch([smiles]) for smiles in MOLECULES]
    whole = joined(*alone)
    pos = (whole.pos + 0.1 * torch.randn(whole.pos.shape, generator=seeded())).double()
    weights = torch.randn(whole.num_nodes, SMALL.hidden, dtype=torch.float64, generator=seeded())

    def plain(moving):
        if name == "graph":
            return torch.cat([plain_graph(encoder, batch) for batch in alone])
        parts = moving.split(whole.ptr.diff().tolist())
        return torch.cat([plain_geometry(encoder, batch, part) for batch, part in zip(alone, parts, strict=True)])

    results = []
    for forward in (lambda moving: run(encoder, replace(whole, pos=moving)), plain):
        encoder.zero_grad()
        moving = pos.clone().requires_grad_()
        output = forward(moving)
        (output * weights).sum().backward()
        gradients = [parameter.grad.clone() for parameter in encoder.parameters()]
        results.append([output.detach(), *([moving.grad] if name == "geometry" else []), *gradients])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


# --- batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODERS)
def test_neighbours_do_not_matter(name):
    """Least of all a molecule of 200 atoms: 1e-6 relative in float32."""
    encoder = ENCODERS[name](SMALL)
    small = molecule_batch([*DRUGS[:8], *AWKWARD])
    expected = run(encoder, small)
    for whole in (joined(small, chain(200)), joined(chain(200), small)):
        start = 0 if whole.ptr[1] != 200 else 200
        rows = run(encoder, whole)[start : start + small.num_nodes]
        assert (rows - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("smiles", [["C"], ["N#N"], ["O=C=O"], ["[Na+].[Cl-]"], [*AWKWARD]], ids=str)
def test_awkward_molecules_give_every_parameter_a_finite_gradient(name, smiles):
    encoder, batch = ENCODERS[name](SMALL), molecule_batch(smiles)
    for pos in (batch.pos, torch.zeros_like(batch.pos)):
        encoder.zero_grad()
        moving = pos.clone().requires_grad_()
        output = run(encoder, replace(batch, pos=moving))
        output.square().sum().backward()
        assert output.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
        assert name == "graph" or moving.grad.isfinite().all()


@pytest.mark.parametrize("name", ENCODERS)
def test_every_module_runs_once_whatever_the_batch(name):
    """ZeRO-3 gathers a module's parameters when it runs, on all ranks in the same order."""
    encoder, orders = ENCODERS[name](SMALL), []
    owners = {key: m for key, m in encoder.named_modules() if list(m.parameters(recurse=False))}
    for batch in (molecule_batch(["C"]), molecule_batch([*AWKWARD, *DRUGS[:5]]), chain(30)):
        order: list[str] = []
        hooks = [
            module.register_forward_hook(lambda *_, key=key, order=order: order.append(key))
            for key, module in owners.items()
        ]
        run(encoder, batch)
        for hook in hooks:
            hook.remove()
        orders.append(order)
    assert sorted(orders[0]) == sorted(owners)
    assert orders[0] == orders[1] == orders[2]


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("mode", ["autocast", "bfloat16"])
def test_bfloat16_is_finite_and_close(name, mode):
    encoder = ENCODERS[name](replace(SMALL, hidden=64, num_layers=6, num_heads=4))
    batch = molecule_batch([*DRUGS, *AWKWARD])
    exact = run(encoder, batch)
    if mode == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = run(encoder, batch)
    else:
        rounded = run(encoder.bfloat16(), batch)
    rounded.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert (rounded.float() - exact).norm() / exact.norm() < 0.03


def test_the_norm_computes_in_the_type_of_its_input():
    norm = RMSNorm(16, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(5, 16, generator=seeded(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = norm(x.bfloat16())
    assert rounded.dtype == torch.bfloat16
    expected = x * x.square().mean(1, keepdim=True).add(1e-6).rsqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(rounded.float(), expected, rtol=0.03, atol=0.03)


# --- handedness -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("smiles", "flat"), [("C[C@H](N)C(=O)O", False), ("Oc1ccccc1C=O", True)])
def test_mirror_images_differ_where_the_molecule_is_chiral(smiles, flat):
    encoder, batch = GeometryTransformer(SMALL).double(), molecule_batch([smiles])
    pos = batch.pos.double()
    if flat:
        pos = pos - (pos @ torch.linalg.svd(pos).Vh[2]).unsqueeze(1) * torch.linalg.svd(pos).Vh[2]
    mirror = -rotation(seeded(1))
    here, there = (run(encoder, replace(batch, pos=at)) for at in (pos, pos @ mirror.T))
    difference = (here - there).abs().max() / here.abs().max()
    assert difference < 1e-12 if flat else difference > 1e-2


def test_both_hands_of_a_bond_graph_are_told_apart_by_their_chirality_tags():
    encoder = GraphTransformer(SMALL)
    left, right = (run(encoder, molecule_batch([smiles])) for smiles in ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"))
    assert (left - right).abs().max() > 1e-2


# --- blocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODERS)
def test_checkpointing_changes_no_gradient(name):
    batch, results = molecule_batch(DRUGS[:6]), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = ENCODERS[name](replace(SMALL, checkpointing=checkpointing))
        runs = Counter()
        encoder.trunk.blocks[0].register_forward_pre_hook(lambda *_, runs=runs: runs.update(["block"]))
        output = run(encoder, batch)
        output.square().sum().backward()
        assert runs["block"] == (2 if checkpointing else 1)
        results.append([output.detach(), *(p.grad for p in encoder.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        assert torch.equal(plain, recomputed)


def test_contradicting_sizes_are_named():
    with pytest.raises(ValueError, match=r"dropout=0.1.*checkpointing=false"):
        GraphTransformer(replace(SMALL, checkpointing=True, dropout=0.1))
    with pytest.raises(ValueError, match=r"hidden=25.*num_heads=3"):
        GeometryTransformer(replace(SMALL, hidden=25))


@pytest.mark.parametrize("name", ENCODERS)
def test_dropout_comes_from_the_generator(name):
    encoder, batch = ENCODERS[name](replace(SMALL, dropout=0.3)).train(), molecule_batch(DRUGS[:3])
    first, again, other = (run(encoder, batch, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(run(encoder.eval(), batch), run(encoder, batch, generator=seeded(1)))


def test_a_conditioned_block_starts_as_the_identity_and_listens_row_by_row():
    batch = molecule_batch(DRUGS[:4])
    layout, block = bucketed(batch.batch), Block(SMALL, condition_width=6)
    x = torch.randn(batch.num_nodes, SMALL.hidden, generator=seeded())
    relation = torch.randn(int((batch.ptr.diff() * (batch.ptr.diff() - 1) // 2).sum()) + 1, SMALL.pair_hidden)
    condition = torch.randn(batch.num_nodes, 6, generator=seeded())
    assert torch.equal(block(x, relation, layout, condition=condition), x)
    for branch in (block.attention, block.feed_forward):
        torch.nn.init.normal_(branch.modulation.weight, std=0.3)
    before = block(x, relation, layout, condition=condition)
    after = block(x, relation, layout, condition=torch.where(batch.batch.unsqueeze(1) == 1, 2.0, condition))
    changed = (before != after).any(1)
    assert torch.equal(changed, batch.batch == 1)
    assert not any("modulation" in key for key, _ in Block(SMALL).named_parameters())


def test_the_condition_scales_shifts_and_gates():
    batch = molecule_batch(["CCO"])
    layout, block = bucketed(batch.batch), Block(SMALL, condition_width=6).double()
    for branch in (block.attention, block.feed_forward):
        torch.nn.init.normal_(branch.modulation.weight, std=0.3)
    x, condition = torch.randn(3, SMALL.hidden).double(), torch.randn(3, 6).double()
    relation = torch.randn(4, SMALL.pair_hidden).double()
    expected = x
    for branch, inputs in ((block.attention, (relation, layout)), (block.feed_forward, ())):
        scale, shift, gate = (silu(condition) @ branch.modulation.weight.T).chunk(3, dim=1)
        normed = plain_norm(expected, branch.norm.weight)
        expected = expected + gate * branch.branch(normed + scale * normed + shift, *inputs)
    torch.testing.assert_close(block(x, relation, layout, condition=condition), expected)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_deep_encoder_starts_with_signal_and_gradient_of_even_size(name):
    encoder = ENCODERS[name](replace(SMALL, hidden=96, feed_forward=256, num_layers=32))
    streams = []
    for block in encoder.trunk.blocks:
        block.register_forward_hook(lambda _, __, x: streams.append(x.detach().std().item()))
    batch = molecule_batch(DRUGS[:12])
    weights = torch.randn(batch.num_nodes, 96, generator=seeded())
    (run(encoder, batch) * weights).sum().backward()
    assert all(0.7 < stream < 2.0 for stream in streams)
    gradients = [block.feed_forward.branch.out.weight.grad.norm().item() for block in encoder.trunk.blocks]
    assert max(gradients) < 5 * min(gradients)
