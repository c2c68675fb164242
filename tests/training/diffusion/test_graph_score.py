"""The 3D-to-2D score networks: sizes, the grouped layout against the specification channel by channel, padding."""

import pytest
import torch
import torch.nn.functional as F

from molstream.training.diffusion.graph_score import GraphScore
from molstream.training.models import layers
from molstream.training.models.config import GraphScoreConfig
from tests.support.molecules import num_parameters, seeded

SMALL = GraphScoreConfig(hidden=8, num_layers=3, num_heads=2, hidden_channels=3, final_channels=2)
WIDTH, TYPES = 10, 7


def noised(sizes, size, dtype=torch.float64, seed=0):
    """z, x, adj and flags of molecules of these sizes, padded to ``size``."""
    generator = seeded(seed)
    g = len(sizes)
    flags = torch.arange(size).unsqueeze(0) < torch.tensor(sizes).unsqueeze(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    adj = draw(g, size, size).triu(1)
    adj = (adj + adj.transpose(1, 2)) * (flags.unsqueeze(1) & flags.unsqueeze(2))
    return draw(g, size, WIDTH) * flags.unsqueeze(2), draw(g, size, TYPES) * flags.unsqueeze(2), adj, flags


def plain_gcn(x, adj, weight, bias):
    n = adj.shape[0]
    adj = adj * (1 - torch.eye(n, dtype=adj.dtype)) + torch.eye(n, dtype=adj.dtype)
    root = torch.diag(adj.sum(1).clamp(min=1) ** -0.5)
    return root @ adj @ root @ (x @ weight) + bias


def plain_graph_score(net: GraphScore, z, x, adj, flags):
    """Specification 5.2 for one molecule, one channel at a time. Returns m_X and m_A."""
    both, n = flags.unsqueeze(0) * flags.unsqueeze(1), len(flags)
    H = net.embed_3d(z) + net.embed_types(x)

    rows = [H]
    for layer in net.node.layers:
        rows.append(torch.tanh(plain_gcn(rows[-1], adj, layer.weight[0], layer.bias[0])))
    m_x = net.node.final(torch.cat(rows, 1)) * flags.unsqueeze(1)

    channels, collected, h = [adj, adj @ adj], [adj, adj @ adj], H
    for layer in net.adjacency.layers:
        values, maps = [], []
        for k, A_k in enumerate(channels):
            Q, K = (
                torch.tanh(h @ first.weight[k] + first.bias[k]) @ second.weight[k] + second.bias[k]
                for first, second in ((layer.query_in, layer.query_out), (layer.key_in, layer.key_out))
            )
            width = SMALL.hidden // SMALL.num_heads
            slices = [
                torch.tanh(q @ k_.T / width**0.5) for q, k_ in zip(Q.split(width, 1), K.split(width, 1), strict=True)
            ]
            assert len(slices) == 2 * SMALL.num_heads
            S = torch.stack(slices).mean(0)
            maps.append((S + S.T) / 2)
            values.append(plain_gcn(h, A_k, layer.value.weight[k], layer.value.bias[k]))
        pairs = torch.stack(maps + channels, 2)
        for part in (0, 2, 4):
            pairs = pairs @ layer.pairs[part].weight.T + layer.pairs[part].bias
            pairs = F.elu(pairs) if part < 4 else pairs
        pairs = (pairs + pairs.transpose(0, 1)) * both.unsqueeze(2)
        hidden = F.elu(torch.cat(values, 1) @ layer.atoms[0].weight.T + layer.atoms[0].bias)
        h = torch.tanh((hidden @ layer.atoms[2].weight.T + layer.atoms[2].bias) * flags.unsqueeze(1))
        channels = list(pairs.unbind(2))
        collected += channels
    m_a = net.adjacency.final(torch.stack(collected).flatten(1)).view(n, n) * (1 - torch.eye(n, dtype=adj.dtype)) * both
    return m_x, m_a


def test_number_of_parameters_is_the_papers():
    net = GraphScore(GraphScoreConfig(), 300)
    assert num_parameters(net.adjacency) == 151_561
    assert num_parameters(net.node) == 888_815
    assert num_parameters(net) == 1_166_676


@pytest.mark.parametrize("rows_of_block", [4, 1024])
def test_outputs_and_gradients_equal_the_specification_in_float64(rows_of_block, monkeypatch):
    monkeypatch.setattr(layers, "ROWS_OF_BLOCK", rows_of_block)
    net = GraphScore(SMALL, WIDTH, TYPES).double()
    inputs = noised([5, 3, 1, 6], 6)
    generator = seeded(9)
    weights_x, weights_a = (torch.randn(4, 6, k, generator=generator, dtype=torch.float64) for k in (TYPES, 6))

    def plain(*batch):
        outputs = [plain_graph_score(net, *molecule) for molecule in zip(*batch, strict=True)]
        return tuple(torch.stack(part) for part in zip(*outputs, strict=True))

    results = []
    for forward in (net, plain):
        net.zero_grad(set_to_none=True)
        m_x, m_a = forward(*inputs)
        ((m_x * weights_x).sum() + (m_a * weights_a).sum()).backward()
        if forward is net:  # the plain form leaves the last layer's unread atom rows without one
            assert all(parameter.grad is not None for parameter in net.parameters())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()]
        results.append([m_x.detach(), m_a.detach(), *gradients])
    assert results[0][1].abs().max() > 0.05
    for ours, literal in zip(*results, strict=True):
        torch.testing.assert_close(ours, literal, rtol=1e-9, atol=1e-9)


def test_initialisation_is_per_channel():
    layer = GraphScore(GraphScoreConfig(), 300).adjacency.layers[0]
    bound = (6 / (300 + 32)) ** 0.5
    for channel in layer.query_in.weight:
        assert 0.95 * bound < channel.abs().max() <= bound
    assert (layer.query_in.bias == 0).all()


def test_adjacency_output_is_symmetric_with_zero_diagonal_and_masked():
    net = GraphScore(SMALL, WIDTH, TYPES).double()
    z, x, adj, flags = noised([6, 4, 2], 6)
    m_x, m_a = net(z, x, adj, flags)
    torch.testing.assert_close(m_a, m_a.transpose(1, 2), rtol=0, atol=1e-12)
    assert (m_a.diagonal(dim1=1, dim2=2) == 0).all()
    assert (m_x[~flags] == 0).all()
    assert (m_a[~flags] == 0).all()
    assert (m_a.transpose(1, 2)[~flags] == 0).all()


def test_padding_changes_nothing():
    net = GraphScore(SMALL, WIDTH, TYPES).double()
    z, x, adj, flags = noised([5], 5)
    alone = net(z, x, adj, flags)
    grow = lambda part, *pad: F.pad(part, pad)  # noqa: E731
    padded = net(grow(z, 0, 0, 0, 4), grow(x, 0, 0, 0, 4), grow(adj, 0, 4, 0, 4), grow(flags, 0, 4))
    torch.testing.assert_close(padded[0][:, :5], alone[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(padded[1][:, :5, :5], alone[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["autocast", "bfloat16"])
def test_half_precision(mode):
    net = GraphScore(GraphScoreConfig(), WIDTH, TYPES)
    inputs = noised([6, 4, 2], 6, torch.float32)
    exact = net(*inputs)
    if mode == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = net(*inputs)
    else:
        mixed = net.bfloat16()(*inputs)
    for ours, theirs in zip(mixed, exact, strict=True):
        assert (ours.float() - theirs).norm() / theirs.norm() < 0.05
