"""ComENet: size, the formulas written out edge by edge, derivatives, mirror images, degenerate inputs."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import spherical_jn

from molstream.training.models.comenet import (
    BESSEL_ZEROS,
    COINCIDENT,
    COLLINEAR,
    ComENet,
    edge_features,
    nearest_neighbours,
    radial_basis,
    spherical_bessel,
)
from molstream.training.models.config import ComENetConfig
from molstream.training.models.encoders import Encoders
from molstream.training.models.graph import radius_pairs
from molstream.training.module import build_module
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

SMALL = ComENetConfig(hidden=10, middle=5, num_blocks=2, num_dense=2, cutoff=4.0)
CHIRAL = replace(SMALL, chirality=True)
BOTH = pytest.mark.parametrize("config", [SMALL, CHIRAL], ids=["folded", "signed"])
ALANINE = "C[C@H](N)C(=O)O"


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def awakened(config: ComENetConfig) -> ComENet:
    """An encoder in float64 whose biases and normalisations have something to say."""
    net = ComENet(config).double()
    for number, parameter in enumerate(net.parameters()):
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=seeded(number)).double()
    return net


def shaken(smiles, spread=0.1):
    """A batch in float64 without equal distances, nor planes that rounding decides about."""
    batch = molecule_batch(smiles)
    return with_pos(batch, batch.pos.double() + spread * torch.randn(batch.pos.shape, generator=seeded(5)).double())


def encode(net, batch):
    return net(batch.x[:, 0], batch.pos, batch.batch)


# The specification written down with numpy, one atom and one edge at a time, by its angles.


def plain_neighbours(pos, cutoff):
    """For each atom its neighbours within the cutoff, the nearest first."""
    apart = np.linalg.norm(pos[:, None] - pos[None], axis=2)
    return [
        sorted((j for j in range(len(pos)) if j != i and apart[i, j] <= cutoff), key=lambda j, i=i: (apart[i, j], j))
        for i in range(len(pos))
    ]


def angle_about(axis, a, b):
    """The angle from the plane of ``axis`` and a to that of ``axis`` and b, from -pi to pi."""
    first, second = np.cross(axis, a), np.cross(axis, b)
    return math.atan2(np.cross(first, second) @ axis / np.linalg.norm(axis), first @ second)


def reference_of(near, atom, other):
    return next((k for k in near[atom][:2] if k != other), None)


def plain_features(pos, near, i, j, config):
    """Features of the edge j -> i."""
    v, zero, one = pos[j] - pos[i], math.sqrt(1 / (4 * math.pi)), math.sqrt(3 / (4 * math.pi))
    d = np.linalg.norm(v)
    keep = (lambda angle: angle) if config.chirality else abs
    b = [
        [
            math.sqrt(2) / abs(spherical_jn(order + 1, zeta)) * spherical_jn(order, zeta * d / config.cutoff)
            for zeta in row
        ]
        for order, row in enumerate(BESSEL_ZEROS)
    ]
    v0 = pos[near[i][0]] - pos[i]
    theta = math.atan2(np.linalg.norm(np.cross(-v, v0)), -v @ v0)
    harmonics = [one * math.cos(theta), 0.0, 0.0]
    if len(near[i]) > 1:
        # The planes of n0 and n1 are those of -v; j itself spans no plane with v.
        n1 = near[i][1]
        phi = keep(0.0 if n1 == j or near[i][0] == j else angle_about(v, v0, pos[n1] - pos[i]))
        harmonics[1:] = [one * math.sin(theta) * math.cos(phi), one * math.sin(theta) * math.sin(phi)]
    circular = [0.0] * (1 + config.chirality)
    ends = reference_of(near, i, j), reference_of(near, j, i)
    if None not in ends:
        tau = keep(angle_about(v, pos[ends[0]] - pos[i], pos[ends[1]] - pos[j]))
        circular = [one * math.cos(tau), one * math.sin(tau)][: 1 + config.chirality]
    distances = [zero * value for value in b[0]]
    polar = distances + [value * y for value in b[1] for y in harmonics]
    return np.array(polar), np.array(distances + [value * y for value in b[1] for y in circular])


def plain_comenet(net, z, pos):
    """The rows of the atoms of one molecule."""
    config, n, near = net.config, len(z), plain_neighbours(pos, net.config.cutoff)
    weights = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    linear = lambda name, x: weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0.0)  # noqa: E731
    swish = lambda x: x / (1 + np.exp(-x))  # noqa: E731
    features = {(i, j): plain_features(pos, near, i, j, config) for i in range(n) for j in near[i]}
    x = [swish(weights["atom_embedding.weight"][number]) for number in z]
    for number in range(config.num_blocks):
        block = f"blocks.{number}"
        x = [swish(linear(f"{block}.enter", row)) for row in x]
        h = []
        for i in range(n):
            parts = []
            for kind, name in enumerate((f"{block}.polar", f"{block}.torsional")):
                total = np.zeros(config.hidden)
                for j in near[i]:
                    inner = weights[f"{name}.filter.inner"] @ features[i, j][kind]
                    total += (weights[f"{name}.filter.outer"] @ inner) * x[j]
                parts.append(
                    swish(linear(f"{name}.update", linear(f"{name}.message", total) + linear(f"{name}.own", x[i])))
                )
            row = linear(f"{block}.join", np.concatenate(parts)) + x[i]
            for layer in range(config.num_dense):
                row = swish(linear(f"{block}.dense.{layer}", row)) + row
            h.append(row)
        centred = h - weights[f"{block}.norm.mean_scale"] * np.mean(h, axis=0)
        h = centred / np.sqrt((centred**2).mean(0) + 1e-5)
        x = [
            linear(f"{block}.leave", row * weights[f"{block}.norm.weight"] + weights[f"{block}.norm.bias"]) for row in h
        ]
    return np.array(x)


def test_number_of_parameters_at_the_papers_sizes():
    assert num_parameters(ComENet(ComENetConfig())) == 3_587_328
    assert num_parameters(ComENet(ComENetConfig(chirality=True))) == 3_588_096


@BOTH
def test_outputs_equal_the_formulas_edge_by_edge(config):
    """Also for atoms with no, one and two neighbours within the cutoff."""
    smiles = [ALANINE, "CC(=O)Nc1ccc(O)cc1", "C", "CC", "CCO", "[Na+].[Cl-]"]
    batch, net = shaken(smiles), awakened(config)
    batch.pos[-1] = batch.pos[-2] + 50.0  # two lonely ions
    batch.pos[batch.ptr[1]] += 3.0  # a methyl group that sees few atoms
    found, seen = encode(net, batch).detach().numpy(), Counter()
    for start, end in zip(batch.ptr[:-1], batch.ptr[1:]):
        z, pos = batch.x[start:end, 0].tolist(), batch.pos[start:end].numpy()
        seen.update(min(len(near), 3) for near in plain_neighbours(pos, config.cutoff))
        np.testing.assert_allclose(found[start:end], plain_comenet(net, z, pos), rtol=1e-9, atol=1e-9)
    assert set(seen) == {0, 1, 2, 3}
    assert np.abs(found).max() > 0.1


@BOTH
@pytest.mark.parametrize("smiles", [ALANINE, "OO", "CCO"])
def test_gradients_of_positions_are_finite_differences(config, smiles):
    batch, net = shaken([smiles]), awakened(config)
    of_positions = lambda pos: encode(net, with_pos(batch, pos))  # noqa: E731
    assert torch.autograd.gradcheck(of_positions, batch.pos.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("order", [0, 1])
def test_radial_functions_are_scipys_bessel_functions(order):
    for number, zero in enumerate(BESSEL_ZEROS[order], start=1):
        around = (number * math.pi - 0.1, (number + 0.5) * math.pi)
        assert zero == pytest.approx(brentq(lambda x: spherical_jn(order, x), *around, xtol=1e-15), rel=1e-14)
    x = torch.cat([torch.logspace(-30, 0, 300, dtype=torch.float64), torch.linspace(0, 11, 300, dtype=torch.float64)])
    x.requires_grad_()
    value = spherical_bessel(order, x)
    np.testing.assert_allclose(value.detach(), spherical_jn(order, x.detach().numpy()), rtol=1e-12, atol=1e-15)
    (slope,) = torch.autograd.grad(value.sum(), x)
    np.testing.assert_allclose(slope, spherical_jn(order, x.detach().numpy(), derivative=True), rtol=1e-10, atol=1e-13)
    # With the weight r^2 of a ball they are orthonormal, up to the ball's radius.
    r = torch.linspace(0, 8, 20_001, dtype=torch.float64)
    basis = radial_basis(order, r, 8.0)
    products = torch.trapezoid((basis.unsqueeze(2) * basis.unsqueeze(1) * (r**2).view(-1, 1, 1)), r, dim=0)
    torch.testing.assert_close(products / 8**3, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-6)


def test_features_are_zero_at_the_cutoff_and_only_there_do_atoms_leave():
    net, batch = awakened(SMALL), molecule_batch(["CO"])

    def at(distance):
        return encode(net, with_pos(batch, torch.tensor([[0.0, 0, 0], [distance, 0, 0]], dtype=torch.float64)))

    torch.testing.assert_close(at(SMALL.cutoff - 1e-9), at(SMALL.cutoff + 1e-9), rtol=0, atol=1e-6)
    torch.testing.assert_close(at(SMALL.cutoff + 1.0), at(50.0), rtol=0, atol=0)
    assert (at(SMALL.cutoff - 1.0) - at(50.0)).abs().max() > 1e-3


def test_of_equally_near_atoms_the_lowest_number_comes_first():
    pos = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0], [-1, 0, 0], [9, 0, 0], [9, 1, 0], [99, 0, 0]])
    pairs, distance = radius_pairs(pos, torch.zeros(7, dtype=torch.long), 4.0)
    nearest = nearest_neighbours(pos, pairs, distance)
    assert nearest.number.tolist() == [[2, 2, 0, 2, 5, 4, 7], [1, 0, 1, 1, 7, 7, 7]]
    assert torch.equal(nearest.direction[0, 2], pos[0])
    assert (nearest.direction.norm(dim=2) > 0).tolist() == (nearest.number < 7).tolist()


def largest_change(net, batch, motion):
    h = encode(net, batch)
    return ((encode(net, with_pos(batch, batch.pos @ motion.T + 3.0)) - h).abs().max() / h.abs().max()).item()


@BOTH
def test_turning_changes_nothing_even_where_atoms_are_in_line_or_in_a_plane(config):
    net, batch = awakened(config), shaken([*DRUGS[:4], *AWKWARD], spread=0.05)
    flat = with_pos(batch, batch.pos * torch.tensor([1.0, 1.0, 0.0]))
    straight = with_pos(batch, batch.pos * torch.tensor([1.0, 0.0, 0.0]))
    for positions in (batch, flat, straight):
        for seed in range(3):
            assert largest_change(net, positions, rotation(seeded(seed))) < 1e-10


def test_mirror_images_differ_only_for_chiral_molecules_and_only_by_signed_torsions():
    chiral = shaken([ALANINE, "F[C@](Cl)(Br)I", "OO"])
    planar = with_pos(chiral, chiral.pos * torch.tensor([1.0, 1.0, 0.0]))
    mirror = -rotation(seeded(3))
    for config, batch, differs in ((SMALL, chiral, False), (CHIRAL, planar, False), (CHIRAL, chiral, True)):
        net = awakened(config)
        h, mirrored = encode(net, batch), encode(net, with_pos(batch, batch.pos @ mirror.T))
        change = (h - mirrored).abs().amax(1)
        by_molecule = [change[start:end].max().item() for start, end in zip(batch.ptr[:-1], batch.ptr[1:])]
        # Two atoms have no mirror image.
        expected = [differs, differs, False]
        assert [value > 1e-3 for value in by_molecule] == expected
        assert [value < 1e-11 for value in by_molecule] == [not differs for differs in expected]


def test_cis_and_trans_differ():
    """Half a turn of a torsion; folding it by adding pi would not see it."""
    net, batch = awakened(SMALL), molecule_batch(["FC=CF"])
    cis = torch.tensor([[-0.7, 1.1, 0.0], [0, 0, 0], [1.3, 0, 0], [2.0, 1.15, 0]], dtype=torch.float64)
    trans = cis * torch.tensor([[1.0, 1, 1], [1, 1, 1], [1, 1, 1], [1, -1, 1]])
    zero = torch.zeros(4, dtype=torch.long)
    bond = radius_pairs(cis, zero, 4.0)[0].T.tolist().index([1, 2])
    of_torsion = [edge_features(pos, zero, 4.0, chirality=False)[2][bond, 3:] for pos in (cis, trans)]
    torch.testing.assert_close(of_torsion[0], -of_torsion[1])
    assert (encode(net, with_pos(batch, cis)) - encode(net, with_pos(batch, trans))).abs().max() > 1e-3


def test_undefined_angles_are_masked():
    """Two atoms have theta = pi alone, three in line no phi either; a triangle has all, a torsion of 0."""
    zero = lambda n: torch.zeros(n, dtype=torch.long)  # noqa: E731
    pos = torch.tensor([[0.0, 0, 0], [1.2, 0, 0], [2.3, 0, 0]], dtype=torch.float64)
    for count in (2, 3):
        _, polar, torsional = edge_features(pos[:count], zero(count), 4.0, chirality=True)
        harmonics, circular = polar[..., 3:].view(2, -1, 3, 3), torsional[:, 3:].view(-1, 3, 2)
        assert (harmonics[..., 0].abs() > 1e-3).all()
        assert (harmonics[..., 1:] == 0).all()
        assert (circular == 0).all()
    pos[2, 1] = 0.9
    _, polar, torsional = edge_features(pos, zero(3), 4.0, chirality=True)
    circular = torsional[:, 3:].view(-1, 3, 2)
    assert (circular[..., 0].abs() > 1e-3).all()
    assert circular[..., 1].abs().max() < 1e-12
    assert edge_features(pos[:1], zero(1), 4.0, chirality=True)[1].shape == (2, 0, 12)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_awkward_molecules_have_finite_features_and_forces(config, dtype):
    """Single atoms, pairs, lines (carbon dioxide, ethyne with hydrogens), coincident and nearly coincident atoms."""
    net, zero = awakened(config).to(dtype), lambda n: torch.zeros(n, dtype=torch.long)
    batch = molecule_batch(AWKWARD)
    line = torch.tensor([[-1.66, 0, 0], [-0.6, 0, 0], [0.6, 0, 0], [1.66, 0, 0]])
    cases = [(batch.x[:, 0], batch.pos, batch.batch), (torch.tensor([0, 5, 5, 0]), line, zero(4))]
    for spread in (0.0, 1e-30, COINCIDENT / 2, 0.1):
        three = spread * torch.randn(3, 3, generator=seeded())
        cases += [(torch.tensor([5, 6, 7]), three, zero(3))]
        cases += [(torch.tensor([0, 5, 5, 0, 5, 6, 7]), torch.cat([line, three]), zero(7))]
    bent = torch.tensor([[0, 0, 0], [0, COLLINEAR / 3, 0], [0, 0, 0], [0, 0, 0]])
    cases += [(torch.tensor([0, 5, 5, 0]), line + bent, zero(4))]
    for z, pos, molecule in cases:
        pos = pos.to(dtype).requires_grad_()
        h = net(z, pos, molecule)
        (h * torch.randn(h.shape, generator=seeded(1)).to(dtype)).sum().backward()
        assert h.isfinite().all()
        assert pos.grad.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


@BOTH
def test_a_molecule_does_not_depend_on_its_batch(config):
    net, smiles = awakened(config), [*DRUGS[:3], *AWKWARD]
    batch = shaken(smiles)
    together = encode(net, batch)
    for text, start, end in zip(smiles, batch.ptr[:-1], batch.ptr[1:], strict=True):
        alone = encode(net, with_pos(molecule_batch([text]), batch.pos[start:end]))
        torch.testing.assert_close(together[start:end], alone, rtol=1e-11, atol=1e-11)


def test_features_of_half_precision_positions_are_computed_in_float32():
    batch = shaken(DRUGS[:3])
    pos = batch.pos.bfloat16()
    for half, whole in zip(*(edge_features(p, batch.batch, 4.0, True) for p in (pos, pos.float())), strict=True):
        assert torch.equal(half, whole)


@pytest.mark.parametrize("mode", ["autocast", "bfloat16"])
def test_half_precision_is_close(mode):
    """Less than for other encoders: the normalisation removes what the atoms of a molecule share, not its rounding."""
    net, batch = ComENet(ComENetConfig(hidden=64)), molecule_batch(DRUGS[:8])
    exact = encode(net, batch)
    if mode == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = encode(net, batch)
    else:
        mixed = encode(net.bfloat16(), batch)
    assert (mixed.float() - exact).norm() / exact.norm() < 0.1


@BOTH
def test_the_default_objective_trains_every_parameter(config):
    model = replace(model_config("tiny"), geometry_transformer=None, comenet=replace(config, hidden=64))
    module = build_module(model, objective_config("moleculesde"), 0)
    for smiles in (DRUGS[:6], AWKWARD, ["C"]):
        module.zero_grad()
        loss = module(molecule_batch(smiles), seeded()).loss
        loss.backward()
        assert loss.isfinite()
        for name, parameter in module.encoders.encoder_3d.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_it_replaces_the_3d_encoder_of_a_model():
    encoders = Encoders(replace(model_config("paper"), schnet=None, comenet={}))
    assert num_parameters(encoders) == 1_885_205 + 3_587_328
