"""PaiNN: size, layout against a plain loop over edges, equivariance of its vectors, derivatives, degenerate inputs."""

import math
from dataclasses import replace

import pytest
import torch

from molstream.training.data.labels import Labels
from molstream.training.models.config import PaiNNConfig
from molstream.training.models.encoders import Encoders
from molstream.training.models.painn import COINCIDENT, PaiNN
from molstream.training.objectives.config import PaperMoleculeSDEConfig
from molstream.training.objectives.moleculesde_paper import PaperMoleculeSDE
from tests.support.molecules import (
    AWKWARD,
    DRUGS,
    model_config,
    molecule_batch,
    num_parameters,
    paper_tiny,
    rotation,
    seeded,
)

SMALL = PaiNNConfig(hidden=12, num_interactions=3, num_gaussians=7, cutoff=3.5)


def plain_painn(painn: PaiNN, z, pos, batch):
    """The formulas of the paper, one edge and one atom at a time: every ordered pair has its own filter."""
    config, n = painn.config, z.numel()
    edges = [
        (i, j)
        for i in range(n)
        for j in range(n)
        if i != j and batch[i] == batch[j] and (pos[i] - pos[j]).norm() <= config.cutoff
    ]
    spacing = config.cutoff / (config.num_gaussians - 1)
    centers = torch.arange(config.num_gaussians, dtype=pos.dtype) * spacing
    s = list(painn.atom_embedding.weight[z])
    v = [torch.zeros(3, config.hidden, dtype=pos.dtype)] * n
    for number, (message, mixing) in enumerate(zip(painn.messages, painn.mixings, strict=True)):
        part = slice(number * 3 * config.hidden, (number + 1) * 3 * config.hidden)
        received = [(torch.zeros_like(s[0]), torch.zeros_like(v[0]))] * n
        for i, j in edges:
            r = pos[i] - pos[j]
            d = r.norm()
            rbf = torch.exp(-0.5 / spacing**2 * (d - centers) ** 2)
            filters = painn.filter.weight[part] @ rbf + painn.filter.bias[part]
            filters = filters * 0.5 * (torch.cos(math.pi * d / config.cutoff) + 1)
            to_s, along, carry = (message.context(s[j]) * filters).split(config.hidden)
            ds, dv = received[i]
            received[i] = ds + to_s, dv + torch.outer(r / d, along) + v[j] * carry
        for i, (ds, dv) in enumerate(received):
            s_i, v_i = s[i] + ds, v[i] + dv
            V, W = (v_i @ weight.T for weight in mixing.project.weight.split(config.hidden))
            length = ((V**2).sum(0) + 1e-8).sqrt()
            a_ss, a_vv, a_sv = mixing.context(torch.cat([s_i, length])).split(config.hidden)
            s[i], v[i] = s_i + a_ss + a_sv * (V * W).sum(0), v_i + W * a_vv
    return torch.stack(s), torch.stack(v)


def test_number_of_parameters_is_the_papers():
    assert num_parameters(PaiNN(PaiNNConfig())) == 3_069_600


def test_outputs_and_gradients_equal_a_plain_loop_in_float64():
    painn = PaiNN(SMALL).double()
    batch = molecule_batch(["CC(=O)Nc1ccc(O)cc1", "C", "CCO"])
    z, pos = batch.x[:, 0], batch.pos.double()
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=seeded())  # noqa: E731
    weights_s, weights_v = draw(len(z), SMALL.hidden), draw(len(z), 3, SMALL.hidden)
    results = []
    for forward in (painn.scalars_and_vectors, lambda *args: plain_painn(painn, *args)):
        painn.zero_grad()
        moving = pos.clone().requires_grad_()
        s, v = forward(z, moving, batch.batch)
        ((s * weights_s).sum() + (v * weights_v).sum()).backward()
        gradients = [parameter.grad.clone() for parameter in painn.parameters()]
        results.append([s.detach(), v.detach(), moving.grad, *gradients])
    assert results[0][1].abs().max() > 0.1
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert torch.equal(painn(z, pos, batch.batch), painn.scalars_and_vectors(z, pos, batch.batch)[0])


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["rotation", "reflection"])
def test_vectors_turn_with_the_molecule(sign):
    batch, motion = molecule_batch(DRUGS[:8]), sign * rotation(seeded(1))
    errors = {}
    for dtype in (torch.float32, torch.float64):
        painn, pos = PaiNN(SMALL).to(dtype), batch.pos.double()
        _, v = painn.scalars_and_vectors(batch.x[:, 0], pos.to(dtype), batch.batch)
        _, moved = painn.scalars_and_vectors(batch.x[:, 0], (pos @ motion.T + 3.0).to(dtype), batch.batch)
        turned = torch.einsum("xy,nyd->nxd", motion, v.double())
        errors[dtype] = ((moved - turned).abs().max() / v.abs().max()).item()
    assert errors[torch.float32] < 1e-3
    assert errors[torch.float64] < 1e-11


def test_every_atom_type_is_trained():
    """Hydrogen too, whose embedding the original freezes."""
    painn, batch = PaiNN(SMALL), molecule_batch(["[H][H]", "CO"])
    painn(batch.x[:, 0], batch.pos, batch.batch).square().sum().backward()
    gradient = painn.atom_embedding.weight.grad
    assert gradient is not None
    assert gradient[batch.x[:, 0]].abs().amax(1).min() > 0


def test_an_atom_that_leaves_the_cutoff_changes_nothing_abruptly():
    painn = PaiNN(SMALL).double()
    z, batch = torch.tensor([5, 7]), torch.zeros(2, dtype=torch.long)
    at = lambda d: painn(z, torch.tensor([[0.0, 0, 0], [d, 0, 0]], dtype=torch.float64), batch)  # noqa: E731
    torch.testing.assert_close(at(SMALL.cutoff - 1e-6), at(SMALL.cutoff + 1e-6), rtol=0, atol=1e-9)
    torch.testing.assert_close(at(SMALL.cutoff + 1.0), at(50.0))


def test_coincident_atoms_have_bounded_features_and_forces():
    painn, z, batch = PaiNN(SMALL).double(), torch.tensor([5, 6, 7]), torch.zeros(3, dtype=torch.long)
    forces = []
    for spread in (0.0, COINCIDENT / 2, 0.1):
        pos = spread * torch.randn(3, 3, dtype=torch.float64, generator=seeded())
        s, v = painn.scalars_and_vectors(z, pos.requires_grad_(), batch)
        (s.sum() + v.sum()).backward()
        assert s.isfinite().all()
        assert v.isfinite().all()
        assert pos.grad is not None
        forces.append(pos.grad.abs().max().item())
    assert max(forces[:2]) < 2 / COINCIDENT * forces[2]


@pytest.mark.parametrize("smiles", AWKWARD)
def test_awkward_molecules_are_finite_and_lonely_atoms_have_no_direction(smiles):
    batch = molecule_batch([smiles])
    s, v = PaiNN(SMALL).scalars_and_vectors(batch.x[:, 0], batch.pos, batch.batch)
    assert s.isfinite().all()
    assert (v.abs().sum() > 0) == (batch.pos.abs().sum() > 0)  # embedded alone, the ions of a salt coincide


@pytest.mark.parametrize("mode", ["autocast", "bfloat16"])
def test_half_precision_is_close(mode):
    painn, batch = PaiNN(PaiNNConfig(hidden=64)), molecule_batch(DRUGS[:8])
    exact = painn(batch.x[:, 0], batch.pos, batch.batch)
    if mode == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = painn(batch.x[:, 0], batch.pos, batch.batch)
    else:
        mixed = painn.bfloat16()(batch.x[:, 0], batch.pos, batch.batch)
    assert (mixed.float() - exact).norm() / exact.norm() < 0.05


def test_the_whole_objective_trains_with_it():
    model = paper_tiny(schnet=None, painn=PaiNNConfig(hidden=64, num_interactions=2, num_gaussians=11, cutoff=4.0))
    encoders, objective = Encoders(model), PaperMoleculeSDE(PaperMoleculeSDEConfig(), model, Labels.unknown())
    for smiles in (DRUGS[:6], AWKWARD, ["C"]):
        output = objective(molecule_batch(smiles), encoders, seeded())
        encoders.zero_grad()
        output.loss.backward()
        assert output.loss.isfinite()
        for name, parameter in encoders.encoder_3d.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_the_papers_preset_has_it():
    encoders = Encoders(replace(model_config("paper"), schnet=None, painn={}))
    assert num_parameters(encoders) == 1_885_205 + 3_069_600
