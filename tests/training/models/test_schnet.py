"""SchNet: size, layout against a plain loop over edges and torch_geometric's blocks, radius graph, derivatives."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch_geometric.nn.models.schnet import GaussianSmearing, InteractionBlock

from molstream.training.models import graph
from molstream.training.models import schnet as schnet_module
from molstream.training.models.config import SchNetConfig
from molstream.training.models.graph import molecule_pairs, radius_pairs
from molstream.training.models.interpolation import Interpolation
from molstream.training.models.schnet import Pairs, SchNet
from tests.support.molecules import AWKWARD, DRUGS, molecule_batch, num_parameters, seeded

SMALL = SchNetConfig(hidden=20, num_filters=12, num_interactions=2, num_gaussians=11, cutoff=4.0)


def plain_schnet(schnet: SchNet, z, pos, batch):
    """Specification 2.2, edge by edge: every ordered pair has its own filter."""
    config = schnet.config
    n = z.numel()
    ssp = lambda x: F.softplus(x) - math.log(2.0)  # noqa: E731
    edges = [
        (j, i)
        for i in range(n)
        for j in range(n)
        if i != j and batch[i] == batch[j] and (pos[i] - pos[j]).norm() <= config.cutoff
    ]
    spacing = config.cutoff / (config.num_gaussians - 1)
    h = schnet.atom_embedding.weight[z]
    for block in schnet.interactions:
        x = h @ block.project.weight.T
        m = [torch.zeros(config.num_filters, dtype=pos.dtype)] * n
        for j, i in edges:
            d = (pos[i] - pos[j]).norm()
            centers = torch.arange(config.num_gaussians, dtype=pos.dtype) * spacing
            rbf = torch.exp(-0.5 / spacing**2 * (d - centers) ** 2)
            filters = block.filter[2](ssp(block.filter[0](rbf))) * 0.5 * (torch.cos(math.pi * d / config.cutoff) + 1)
            m[i] = m[i] + x[j] * filters
        h = h + block.update[2](ssp(block.update[0](torch.stack(m))))
    return schnet.head[2](ssp(schnet.head[0](h)))


def test_number_of_parameters_is_the_papers():
    assert num_parameters(SchNet(SchNetConfig())) == 1_359_708


def test_initialisation_is_the_originals():
    schnet = SchNet(SchNetConfig())
    first, _, second = schnet.interactions[0].filter
    assert (first.bias == 0).all()
    assert (second.bias != 0).any()
    for linear, fan in ((first, 51 + 128), (second, 128 + 128), (schnet.interactions[0].project, 300 + 128)):
        bound = (6 / fan) ** 0.5
        assert 0.98 * bound < linear.weight.abs().max() <= bound
    assert schnet.atom_embedding.weight.std().item() == pytest.approx(1.0, rel=0.02)


def test_outputs_and_gradients_equal_a_plain_loop_in_float64():
    schnet = SchNet(SMALL).double()
    batch = molecule_batch(["CC(=O)Nc1ccc(O)cc1", "C", "CCO"])
    z, pos = batch.x[:, 0], batch.pos.double()
    weights = torch.randn(len(z), SMALL.hidden, dtype=torch.float64, generator=seeded())
    results = []
    for forward in (schnet, lambda *args: plain_schnet(schnet, *args)):
        schnet.zero_grad()
        moving = pos.clone().requires_grad_()
        output = forward(z, moving, batch.batch)
        (output * weights).sum().backward()
        gradients = [parameter.grad.clone() for parameter in schnet.parameters()]
        results.append([output.detach(), moving.grad, *gradients])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_interactions_equal_torch_geometric():
    schnet = SchNet(SMALL).double()
    batch = molecule_batch(DRUGS[:4])
    pos = batch.pos.double()
    pairs, distance = radius_pairs(pos, batch.batch, SMALL.cutoff)
    edge_index = torch.cat([pairs, pairs.flip(0)], dim=1)
    basis = GaussianSmearing(0.0, SMALL.cutoff, SMALL.num_gaussians).double()(distance)
    h = expected = schnet.atom_embedding(batch.x[:, 0])
    envelope = 0.5 * (torch.cos(distance * math.pi / SMALL.cutoff) + 1).unsqueeze(1)
    for ours in schnet.interactions:
        theirs = InteractionBlock(SMALL.hidden, SMALL.num_gaussians, SMALL.num_filters, SMALL.cutoff).double()
        theirs.mlp.load_state_dict(ours.filter.state_dict())
        theirs.conv.lin1.load_state_dict(ours.project.state_dict())
        theirs.conv.lin2.load_state_dict(ours.update[0].state_dict())
        theirs.lin.load_state_dict(ours.update[2].state_dict())
        h = ours(h, ours.filters(basis, envelope), Pairs(pairs, len(h)))
        expected = expected + theirs(expected, edge_index, distance.repeat(2), basis.repeat(2, 1))
    torch.testing.assert_close(h, expected, rtol=1e-5, atol=1e-6)  # its spacing is a float32 number


def test_pairs_are_all_pairs_within_molecules():
    batch = molecule_batch(["C", "CCO", "[Na+].[Cl-]", "O"])
    assert molecule_pairs(batch.batch).T.tolist() == [[1, 2], [1, 3], [2, 3], [4, 5]]
    assert molecule_pairs(torch.zeros(0, dtype=torch.long)).shape == (2, 0)


def test_no_cap_of_neighbours_by_default_and_a_mutual_cap_on_demand():
    generator = seeded()
    pos, batch = torch.rand(80, 3, generator=generator) * 3, torch.zeros(80, dtype=torch.long)
    assert radius_pairs(pos, batch, cutoff=10.0)[0].shape[1] == 80 * 79 // 2
    pairs, distance = radius_pairs(pos, batch, cutoff=10.0, max_neighbors=32)
    nearest = torch.cdist(pos, pos).argsort(1)[:, 1:33].tolist()
    expected = {(i, j) for i in range(80) for j in nearest[i] if i < j and i in nearest[j]}
    assert set(map(tuple, pairs.T.tolist())) == expected
    torch.testing.assert_close(distance, (pos[pairs[0]] - pos[pairs[1]]).norm(dim=1))


def test_an_atom_that_leaves_the_cutoff_changes_nothing_abruptly():
    schnet = SchNet(SMALL).double()
    z, batch = torch.tensor([5, 7]), torch.zeros(2, dtype=torch.long)
    at = lambda d: schnet(z, torch.tensor([[0.0, 0, 0], [d, 0, 0]], dtype=torch.float64), batch)  # noqa: E731
    torch.testing.assert_close(at(SMALL.cutoff - 1e-6), at(SMALL.cutoff + 1e-6), rtol=0, atol=1e-10)
    torch.testing.assert_close(at(SMALL.cutoff + 1.0), at(50.0))


def test_coincident_atoms_have_finite_forces():
    schnet = SchNet(SMALL)
    pos = torch.zeros(3, 3, requires_grad=True)
    schnet(torch.tensor([5, 6, 7]), pos, torch.zeros(3, dtype=torch.long)).sum().backward()
    assert pos.grad is not None
    assert pos.grad.isfinite().all()


@pytest.mark.parametrize("smiles", AWKWARD)
def test_awkward_molecules_are_finite(smiles):
    batch = molecule_batch([smiles])
    assert SchNet(SMALL)(batch.x[:, 0], batch.pos, batch.batch).isfinite().all()


def test_geometry_stays_float32_in_a_bfloat16_network():
    schnet = SchNet(SchNetConfig(hidden=64, num_filters=64)).eval()
    batch = molecule_batch(DRUGS[:8])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pairs, distance = radius_pairs(batch.pos, batch.batch, cutoff=10.0)
        mixed = schnet(batch.x[:, 0], batch.pos, batch.batch).float()
    exact_distance = (batch.pos[pairs[0]].double() - batch.pos[pairs[1]].double()).norm(dim=1)
    torch.testing.assert_close(distance.double(), exact_distance, rtol=1e-6, atol=0)
    exact = schnet(batch.x[:, 0], batch.pos, batch.batch)
    assert (mixed - exact).norm() / exact.norm() < 0.05


def table_and_plain(schnet: SchNet, batch) -> list[list[torch.Tensor]]:
    """Output and gradients in float64, with filters read off the table and, as positions get a gradient, without."""
    weights = torch.randn(batch.num_nodes, schnet.config.hidden, dtype=torch.float64, generator=seeded())
    results = []
    for moving in (False, True):
        schnet.zero_grad()
        output = schnet(batch.x[:, 0], batch.pos.double().requires_grad_(moving), batch.batch)
        (output * weights).sum().backward()
        results.append([output.detach(), *(parameter.grad.clone() for parameter in schnet.parameters())])
    return results


@pytest.mark.parametrize("atoms_of_block", [1, 50, 768])
def test_filters_read_off_a_table_are_the_same_in_any_blocks(atoms_of_block, monkeypatch):
    monkeypatch.setattr(graph, "ATOMS_OF_BLOCK", atoms_of_block)
    read_off = []
    monkeypatch.setattr(schnet_module, "Interpolation", lambda *args: read_off.append(args) or Interpolation(*args))
    batch = molecule_batch([*DRUGS[:12], *AWKWARD])
    results = table_and_plain(SchNet(SMALL).double(), batch)
    assert len(read_off) > 1 if atoms_of_block < batch.num_nodes else len(read_off) == 1
    for by_table, plain in zip(*results, strict=True):
        torch.testing.assert_close(by_table, plain, rtol=1e-9, atol=1e-9)


def test_forces_can_be_trained_on():
    """The gradient of a loss of forces, against finite differences in a weight."""
    schnet = SchNet(SMALL).double()
    batch = molecule_batch([*DRUGS[:4], "C"])
    weight = schnet.interactions[0].filter[0].weight

    def loss():
        pos = batch.pos.double().requires_grad_()
        energy = schnet(batch.x[:, 0], pos, batch.batch).sum()
        return torch.autograd.grad(energy, pos, create_graph=True)[0].square().sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    direction = torch.randn(weight.shape, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        weight += 1e-5 * direction
    above = loss().item()
    with torch.no_grad():
        weight -= 2e-5 * direction
    difference = (above - loss().item()) / 2e-5
    assert (gradient * direction).sum().item() == pytest.approx(difference, rel=1e-5)
