"""The 2D-to-3D score network: frames, the fast layout against the specification edge by edge, degenerate inputs."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from molstream.training.diffusion.position_score import EDGE_ATTRIBUTES, PositionScore, pair_geometry
from molstream.training.models import graph
from molstream.training.models.config import PositionScoreConfig
from molstream.training.models.graph import extended_edges
from tests.support.molecules import AWKWARD, DRUGS, molecule_batch, num_parameters, rotation, seeded

SMALL = PositionScoreConfig(hidden=8, edge_hidden=12, num_heads=2, readout_hidden=10)
WIDTH = 14


def pairs_of(batch):
    edges = extended_edges(batch.edge_index, batch.num_nodes, 4)
    return edges[:, edges[0] < edges[1]]


def phi(frequencies, scalar):
    angle = 2 * math.pi * frequencies * scalar
    return torch.cat([torch.sin(angle), torch.cos(angle)])


def plain_position_score(net: PositionScore, z, pos, pairs):
    """Specification 4.3, steps 3 to 10, one directed edge at a time; the sine as 8.3 recommends. No dropout."""
    edges = [(i, j) for a, b in pairs.T.tolist() for i, j in ((a, b), (b, a))]
    n, eps = len(z), 1e-6
    concatenated = torch.stack([torch.cat([z[r], z[c]]) for r, c in edges])
    weight = torch.cat([net.edge_in.of_source.weight, net.edge_in.of_target.weight], dim=1)
    hidden = concatenated @ weight.T + net.edge_in.of_target.bias
    q = net.edge_out(F.relu(F.batch_norm(hidden, None, None, net.edge_norm.weight, net.edge_norm.bias, training=True)))
    attribute = net.edge_attribute
    A, basis = [], []
    for k, (r, c) in enumerate(edges):
        d_v = pos[r] - pos[c]
        e1 = d_v / (d_v.norm() + eps)
        cross = torch.linalg.cross(pos[r], pos[c])
        e2 = cross / (cross.norm() + eps)
        e3 = torch.linalg.cross(e1, e2)
        coefficients = [torch.stack([e1 @ pos[v], (e2 @ pos[v]).abs(), e3 @ pos[v]]) for v in (r, c)]
        cos = (coefficients[0] @ coefficients[1]) / ((coefficients[0].norm() + eps) * (coefficients[1].norm() + eps))
        sin = cross.norm() / ((pos[r].norm() + eps) * (pos[c].norm() + eps))
        W = attribute.frame.fourier.frequencies
        u = [attribute.frame.coordinates(torch.cat([phi(W, a), phi(W, g)])) for a, _, g in coefficients]
        f = attribute.frame.mlp[2](F.silu(attribute.frame.mlp[0](torch.cat([torch.stack([sin, cos]), *u]))))
        if hasattr(attribute, "distance"):
            A.append(attribute.distance(phi(attribute.fourier.frequencies, d_v.norm())) * q[k] + f)
        else:
            A.append(q[k] + f)
        basis.append((e1, e2, e3))
    x, output = net.node(z), torch.zeros(n, 3, dtype=pos.dtype)
    for block in net.blocks:
        for number, layer in enumerate(block.layers):
            x = plain_attention(layer, x, edges, A)
            x = F.silu(x) if number + 1 < len(block.layers) else x
        for c in range(n):
            incoming = [k for k, edge in enumerate(edges) if edge[1] == c]
            vectors = []
            for k in incoming:
                w = block.readout[2](F.silu(block.readout[0](torch.cat([x[edges[k][0]] + x[c], A[k]]))))
                vectors.append(sum(w[m] * basis[k][m] for m in range(3)))
            if vectors:
                output = output + F.one_hot(torch.tensor(c), n).unsqueeze(1) * torch.stack(vectors).mean(0)
    return output


def plain_attention(layer, x, edges, A):
    width = x.shape[1] // layer.num_heads
    rows = []
    for c in range(len(x)):
        incoming = [k for k, edge in enumerate(edges) if edge[1] == c]
        heads = []
        for head in range(layer.num_heads):
            part = slice(head * width, (head + 1) * width)
            query = layer.query(x[c])[part]
            keys = [(layer.key(x[edges[k][0]]) + layer.edge(A[k]))[part] for k in incoming]
            values = [(layer.value(x[edges[k][0]]) + layer.edge(A[k]))[part] for k in incoming]
            if incoming:
                alpha = torch.softmax(torch.stack([query @ key for key in keys]) / math.sqrt(width), 0)
                heads.append((alpha.unsqueeze(1) * torch.stack(values)).sum(0))
            else:
                heads.append(torch.zeros(width, dtype=x.dtype))
        rows.append(torch.cat(heads) + layer.skip(x[c]))
    x = x + layer.norm_attention(torch.stack(rows))
    return x + layer.norm_feed_forward(layer.feed_out(F.silu(layer.feed_in(x))))


@pytest.mark.parametrize(("variant", "count"), [("01", 254_858), ("02", 256_938)])
def test_number_of_parameters_is_the_papers(variant, count):
    assert num_parameters(PositionScore(PositionScoreConfig(), 300, variant)) == count


@pytest.mark.parametrize("variant", EDGE_ATTRIBUTES)
def test_outputs_and_gradients_equal_the_specification_in_float64(variant):
    net = PositionScore(replace(SMALL, dropout=0.0), WIDTH, variant).double().train()
    batch = molecule_batch(["CC(=O)O", "C", "OCC=O"])
    generator = seeded()
    z = torch.randn(batch.num_nodes, WIDTH, generator=generator, dtype=torch.float64)
    pos = batch.pos.double() + 0.3 * torch.randn(batch.pos.shape, generator=generator, dtype=torch.float64)
    weights = torch.randn(pos.shape, generator=generator, dtype=torch.float64)
    results = []
    for forward in (net, lambda *args: plain_position_score(net, *args)):
        net.zero_grad()
        features = z.clone().requires_grad_()
        output = forward(features, pos, pairs_of(batch))
        (output * weights).sum().backward()
        gradients = [parameter.grad.clone() for parameter in net.parameters()]
        results.append([output.detach(), features.grad, *gradients])
    assert results[0][0].abs().max() > 0.1
    for ours, literal in zip(*results, strict=True):
        torch.testing.assert_close(ours, literal, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("atoms_of_block", [1, 30])
def test_blocks_of_molecules_change_nothing(atoms_of_block, monkeypatch):
    net = PositionScore(replace(SMALL, dropout=0.0), WIDTH, "02").double().train()
    batch = molecule_batch([*DRUGS[:8], *AWKWARD])
    z = torch.randn(batch.num_nodes, WIDTH, generator=seeded(), dtype=torch.float64, requires_grad=True)
    weights = torch.randn(batch.num_nodes, 3, generator=seeded(1), dtype=torch.float64)
    results = []
    for size in (768, atoms_of_block):
        monkeypatch.setattr(graph, "ATOMS_OF_BLOCK", size)
        output = net(z, batch.pos.double(), pairs_of(batch))
        gradients = torch.autograd.grad((output * weights).sum(), [z, *net.parameters()])
        results.append([output.detach(), *gradients])
    for one, several in zip(*results, strict=True):
        torch.testing.assert_close(several, one, rtol=1e-9, atol=1e-9)


def test_frame_identities():
    generator = seeded()
    pos = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    pairs = torch.arange(40).view(2, 20)
    geometry = pair_geometry(pos, pairs)
    e1, e2, e3 = geometry.basis.unbind(1)
    p_i, p_j = pos[pairs[0]], pos[pairs[1]]
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-4)  # noqa: E731 (1e-6 in every norm)
    close((e2 * p_i).sum(1), torch.zeros(20, dtype=torch.float64))
    close((e2 * p_j).sum(1), torch.zeros(20, dtype=torch.float64))
    close(geometry.a[0] - geometry.a[1], geometry.distance)
    close((e3 * p_j).sum(1), geometry.g)
    line = torch.linalg.cross(p_i, p_j).norm(dim=1) / (p_i - p_j).norm(dim=1)
    close(geometry.g, -line)
    close(geometry.angle[:, 1], F.cosine_similarity(p_i, p_j))
    close(geometry.angle.square().sum(1), torch.ones(20, dtype=torch.float64))

    swapped = pair_geometry(pos, pairs.flip(0))
    sign = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64).view(3, 1)
    close(swapped.basis, geometry.basis * sign)
    close(swapped.a, -geometry.a.flip(0))
    close(swapped.g, geometry.g)

    turn = rotation(generator)
    turned = pair_geometry(pos @ turn.T, pairs)
    mirrored = pair_geometry(-pos, pairs)
    close(turned.basis, geometry.basis @ turn.T)
    close(mirrored.basis, torch.stack([-e1, e2, -e3], dim=1))
    for moved in (turned, mirrored):
        close(moved.a, geometry.a)
        close(moved.g, geometry.g)
        close(moved.angle, geometry.angle)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_collinear_and_coincident_atoms_are_finite(scale):
    line = torch.tensor([[1.0, 2.0, 3.0]]) * torch.linspace(-1, 1, 9).unsqueeze(1) * scale
    pos = torch.cat([line, line[:2], torch.zeros(2, 3)])
    first, second = torch.triu_indices(len(pos), len(pos), 1)
    for position in (pos, pos.bfloat16()):
        geometry = pair_geometry(position, torch.stack([first, second]))
        assert all(part.dtype == torch.float32 and part.isfinite().all() for part in geometry)
        assert (geometry.angle[:, 0] <= 1e-3).all()


@pytest.mark.parametrize("variant", EDGE_ATTRIBUTES)
@pytest.mark.parametrize("smiles", [["C"], ["CC"], ["C", "[He]"], AWKWARD], ids=["one", "pair", "no_edges", "all"])
def test_degenerate_batches_train(variant, smiles):
    net = PositionScore(SMALL, WIDTH, variant).train()
    batch = molecule_batch(smiles)
    z = torch.randn(batch.num_nodes, WIDTH, generator=seeded(), requires_grad=True)
    output = net(z, batch.pos, pairs_of(batch), seeded())
    output.square().sum().backward()
    assert output.isfinite().all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())
    assert all(buffer.isfinite().all() for buffer in net.buffers())
    alone = torch.bincount(pairs_of(batch).flatten(), minlength=batch.num_nodes) == 0
    assert (output[alone] == 0).all()


@pytest.mark.parametrize("mode", ["autocast", "bfloat16"])
def test_half_precision_networks_keep_float32_geometry(mode):
    batch = molecule_batch(DRUGS[:6])
    z = torch.randn(batch.num_nodes, WIDTH, generator=seeded())
    net = PositionScore(PositionScoreConfig(dropout=0.0), WIDTH, "02").eval()
    exact = net(z, batch.pos, pairs_of(batch))
    if mode == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = net(z, batch.pos, pairs_of(batch))
    else:
        frequencies = [net.edge_attribute.fourier.frequencies, net.edge_attribute.frame.fourier.frequencies]
        kept = [frequency.clone() for frequency in frequencies]
        net = net.bfloat16()
        net.edge_attribute.fourier.frequencies, net.edge_attribute.frame.fourier.frequencies = kept
        mixed = net(z.bfloat16(), batch.pos, pairs_of(batch))
    assert mixed.dtype == torch.float32
    assert (mixed - exact).norm() / exact.norm() < 0.1


def test_dropout_comes_from_the_generator():
    net = PositionScore(SMALL, WIDTH, "02").train()
    batch = molecule_batch(DRUGS[:3])
    z = torch.randn(batch.num_nodes, WIDTH, generator=seeded())
    first, again, other = (net(z, batch.pos, pairs_of(batch), seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
