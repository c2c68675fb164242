"""Our form of MoleculeSDE: losses, weightings, masks, gradients; the networks' symmetry is in test_symmetry."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from molstream.errors import ConfigError
from molstream.training.data.labels import Labels
from molstream.training.diffusion.bond_transformer import (
    BondTransformer,
    noise_of_classes,
    one_hot_bonds,
    one_hot_charges,
)
from molstream.training.diffusion.position_transformer import PositionTransformer, centred
from molstream.training.diffusion.score_trunk import NoiseLevel, noise_level, precondition
from molstream.training.diffusion.sde import SDES
from molstream.training.diffusion.weighting import WEIGHTINGS
from molstream.training.models.encoders import Encoders
from molstream.training.models.graph import molecule_pairs
from molstream.training.models.relations import topology
from molstream.training.objectives.config import MoleculeSDEConfig
from molstream.training.objectives.moleculesde import MoleculeSDE
from molstream.training.objectives.table import build_objective
from tests.support.molecules import AWKWARD, DRUGS, model_config, molecule_batch, objective_config, seeded
from tests.support.noise import noise

MODEL = model_config("tiny")


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def build(dtype: torch.dtype = torch.float32, **options) -> tuple[MoleculeSDE, Encoders]:
    objective, encoders = MoleculeSDE(MoleculeSDEConfig(**options), MODEL, Labels.unknown()), Encoders(MODEL)
    return objective.to(dtype), encoders.to(dtype)


def awaken(module: torch.nn.Module) -> None:
    """Give the conditioned blocks, which start as the identity, random weights."""
    for name, parameter in module.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(parameter, std=0.05)


def test_losses_start_where_nothing_is_known():
    objective, encoders = build()
    batch = molecule_batch(DRUGS)
    outputs = [objective(batch, encoders, seeded(k)).metrics for k in range(8)]
    mean = {name: torch.stack([m[name] for m in outputs]).mean().item() for name in outputs[0]}
    assert 0.3 < mean["position_score"] < 1.5, mean
    # Of classes, the noised values alone tell nearly everything where noise is small, and nothing where it is large.
    assert 0.01 < mean["bond_score"] < 0.2, mean
    assert 0.01 < mean["charge_score"] < 0.2, mean
    chance = math.log(len(DRUGS))
    assert 0.9 * chance < mean["contrastive"] < 1.3 * chance, mean


@pytest.mark.parametrize(
    "sde",
    [
        noise("ve", 0.01, 10.0),
        noise("vp", 0.1, 20.0),
        noise("subvp", 0.1, 20.0),
    ],
)
def test_a_network_that_says_nothing_predicts_the_share_of_noise_that_size_tells(sde):
    """With F = 0 the prediction is the best linear one for Gaussian data of the assumed size: its error is closed."""
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    level = noise_level(SDES[sde.kind](sde), t)
    data, noise = (torch.randn(2, 200_000, 7, generator=seeded(3), dtype=torch.float64)).unbind()
    data = 1.5 * data
    scales = precondition(level.ratio, 1.5)
    guess = scales.of_input.T * (level.alpha * data + level.sigma * noise) / level.alpha
    expected = 1.5**2 / (level.ratio**2 + 1.5**2)
    torch.testing.assert_close((guess - noise).square().mean(0), expected, rtol=0.02, atol=0.0)
    # And the network's own target has unit size.
    target = (noise - guess) / scales.of_network.T
    torch.testing.assert_close(target.square().mean(0), torch.ones_like(t), rtol=0.02, atol=0.0)


@pytest.mark.parametrize("sigma", [0.01, 0.3, 3.0])
def test_classes_of_known_probability_have_the_score_of_their_mixture(sigma):
    """The density of x is a mixture of Gaussians about the corners; its score comes from autograd."""
    alpha = 0.8
    logits, x = torch.randn(2, 50, 6, generator=seeded(4), dtype=torch.float64).unbind()
    corners = torch.nn.functional.one_hot(torch.arange(50) % 6, 6)
    x = (alpha * corners + sigma * x).requires_grad_()
    distance = (x.unsqueeze(1) - alpha * torch.eye(6, dtype=torch.float64)).square().sum(2)
    density = torch.logsumexp(torch.log_softmax(logits, 1) - distance / (2.0 * sigma**2), dim=1)
    (score,) = torch.autograd.grad(density.sum(), x)
    level = torch.full((2, 50), alpha, dtype=torch.float64)
    level[1] = sigma
    torch.testing.assert_close(noise_of_classes(logits, x, *level), -sigma * score)


@pytest.mark.parametrize("kind", SDES)
def test_weightings_are_those_of_their_papers(kind):
    sde = SDES[kind](noise(kind, 0.1, 20.0))
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    level = noise_level(sde, t)
    assert WEIGHTINGS["simple"](sde, t, level).tolist() == [1.0, 1.0, 1.0]
    snr = (level.alpha / level.sigma) ** 2
    torch.testing.assert_close(WEIGHTINGS["min_snr"](sde, t, level), snr.clamp(max=5.0) / snr)
    # g^2 / sigma^2: for VE the constant 2 ln(max / min); for VP beta / (1 - alpha^2).
    expected = {
        "ve": torch.full_like(t, 2.0 * math.log(200.0)),
        "vp": (0.1 + 19.9 * t) / (1.0 - level.alpha**2),
        "subvp": (0.1 + 19.9 * t) * (1.0 - level.alpha**4) / level.sigma**2,
    }[kind]
    torch.testing.assert_close(WEIGHTINGS["likelihood"](sde, t, level), expected)


def test_every_parameter_gets_a_finite_gradient_whatever_the_batch_holds():
    for smiles in (DRUGS[:3], AWKWARD, ["C"], ["[Na+].[Cl-]", "N#N"]):
        objective, encoders = build()
        awaken(objective)
        batch = molecule_batch(smiles)
        for has_pos in (batch.has_pos, torch.zeros_like(batch.has_pos)):
            objective.zero_grad()
            encoders.zero_grad()
            output = objective(replace(batch, has_pos=has_pos), encoders, seeded(1))
            output.loss.backward()
            assert torch.isfinite(output.loss)
            for name, parameter in [*objective.named_parameters(), *encoders.named_parameters()]:
                assert parameter.grad is not None, name
                assert torch.isfinite(parameter.grad).all(), name


def test_molecules_without_positions_do_not_count():
    objective, encoders = build(torch.float64)
    awaken(objective)
    batch = molecule_batch(DRUGS[:4])
    hidden = replace(batch, has_pos=torch.tensor([True, False, True, False]))
    moved = replace(hidden, pos=torch.where(hidden.has_pos[batch.batch].unsqueeze(1), batch.pos, 3.0 * batch.pos))
    losses = [objective(b, encoders, seeded(1)).loss.item() for b in (hidden, moved)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0] != pytest.approx(objective(batch, encoders, seeded(1)).loss.item(), rel=1e-6)


def test_the_branches_reach_the_encoders_they_should():
    batch = molecule_batch(DRUGS[:3])
    reached = {}
    for branch in ("contrastive", "position", "bond"):
        off = {f"{b}_coefficient": float(b == branch) for b in ("contrastive", "position", "bond")}
        objective, encoders = build(**off)
        awaken(objective)
        objective(batch, encoders, seeded(1)).loss.backward()
        reached[branch] = [
            any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
            for encoder in (encoders.encoder_2d, encoders.encoder_3d)
        ]
    assert reached == {"contrastive": [True, True], "position": [True, False], "bond": [False, True]}


def test_a_molecule_is_scored_alone_as_among_others():
    smiles = [*DRUGS[:4], "[Na+].CC(=O)[O-]", "C"]
    together = molecule_batch(smiles)
    positions = PositionTransformer(MODEL.position_transformer, 8, 1.5, 4).double().eval()
    bonds = BondTransformer(MODEL.bond_transformer, 8).double().eval()
    awaken(positions)
    awaken(bonds)
    level = NoiseLevel(torch.ones(len(smiles)).double(), torch.linspace(0.05, 3.0, len(smiles)).double())
    draw = lambda *shape: torch.randn(*shape, generator=seeded(2), dtype=torch.float64)  # noqa: E731
    pairs = molecule_pairs(together.batch)
    z, noised, charges = draw(together.num_nodes, 8), draw(together.num_nodes, 3), draw(together.num_nodes, 12)
    classes = draw(pairs.shape[1], 6)

    def scores(batch, atoms, of_pairs, level):
        paths = topology(batch.edge_index, batch.edge_attr, batch.batch)
        batch = replace(batch, pos=batch.pos.double())
        return (
            positions(z[atoms], batch, paths, noised[atoms], level),
            *bonds(z[atoms], batch, classes[of_pairs], charges[atoms], level),
        )

    everything = slice(None)
    expected = scores(together, everything, everything, level)
    for k, text in enumerate(smiles):
        atoms, of_pairs = together.batch == k, together.batch[pairs[0]] == k
        batch = replace(molecule_batch([text]), pos=together.pos[atoms])
        alone = scores(batch, atoms, of_pairs, NoiseLevel(level.alpha[k : k + 1], level.sigma[k : k + 1]))
        for got, part in zip(alone, (expected[0][atoms], expected[1][of_pairs], expected[2][atoms]), strict=True):
            torch.testing.assert_close(got, part, rtol=0.0, atol=1e-10)


def test_predicted_noise_has_mean_zero_and_fragments_know_of_each_other():
    batch = molecule_batch(["[Na+].[Cl-]", "C", "CCO"])
    network = PositionTransformer(MODEL.position_transformer, 8, 1.5, 4).double().eval()
    awaken(network)
    z = torch.randn(batch.num_nodes, 8, generator=seeded(1), dtype=torch.float64)
    pos = torch.randn(batch.num_nodes, 3, generator=seeded(2), dtype=torch.float64)
    level = NoiseLevel(torch.ones(3).double(), torch.full((3,), 0.5).double())
    paths = topology(batch.edge_index, batch.edge_attr, batch.batch)
    noise = network(z, batch, paths, pos, level)
    torch.testing.assert_close(centred(noise, batch), noise, rtol=0.0, atol=1e-12)
    assert noise[2].abs().max() < 1e-12
    # No bond joins the ions, yet they are told where to go, and along the line between them.
    direction = torch.nn.functional.normalize(pos[0] - pos[1], dim=0)
    assert noise[0].norm() > 1e-3
    assert abs(noise[0].dot(direction).item()) == pytest.approx(noise[0].norm().item(), rel=1e-6)


def test_bonds_and_charges_are_one_hot_and_in_the_order_of_pairs():
    batch = molecule_batch(["C=CC#N", "C[N+](C)(C)C", "c1ccccc1", "[Na+].[Cl-]"])
    pairs, bonds = molecule_pairs(batch.batch), one_hot_bonds(batch)
    assert bonds.sum(1).tolist() == [1.0] * pairs.shape[1]
    adjacency = {(i, j): kind for (i, j), kind in zip(batch.edge_index.T.tolist(), batch.edge_attr[:, 0].tolist())}
    found = bonds.argmax(1)
    assert found.tolist() == [adjacency.get((i, j), -1) + 1 for i, j in pairs.T.tolist()]
    charges = one_hot_charges(batch).argmax(1) - 5
    assert charges.tolist() == [0] * 4 + [0, 1, 0, 0, 0] + [0] * 6 + [1, -1]


def test_every_dropout_mask_comes_from_the_generator():
    """Of all four networks: a step can be repeated whatever torch's global generator has done."""
    drop = lambda trunk: replace(trunk, dropout=0.3)  # noqa: E731
    model = replace(
        MODEL,
        **{name: drop(getattr(MODEL, name)) for name in ("graph_transformer", "geometry_transformer")},
        **{
            name: replace(getattr(MODEL, name), trunk=drop(getattr(MODEL, name).trunk))
            for name in ("position_transformer", "bond_transformer")
        },
    )
    objective, encoders = MoleculeSDE(MoleculeSDEConfig(), model, Labels.unknown()), Encoders(model)
    awaken(objective)
    batch, losses = molecule_batch(DRUGS[:4]), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.append(objective(batch, encoders, seeded(7)).loss)
    assert torch.equal(*losses)
    assert not torch.equal(losses[0], objective(batch, encoders, seeded(8)).loss)


def test_unknown_names_and_unequal_widths_are_named():
    with pytest.raises(ConfigError, match=r"weighting=maxsnr: expected one of simple, likelihood, min_snr"):
        MoleculeSDEConfig(weighting="maxsnr")
    with pytest.raises(ConfigError, match=r"kind=vee: expected one of ve, vp, subvp"):
        noise("vee", 0.1, 1.0)
    with pytest.raises(ConfigError, match="same width"):
        MoleculeSDE(
            MoleculeSDEConfig(projection=None),
            replace(MODEL, graph_transformer=None, gin={"hidden": 8}),
            Labels.unknown(),
        )
    with pytest.raises(ConfigError, match=r"objective=moleculesde needs model.bond_transformer"):
        MoleculeSDE(MoleculeSDEConfig(), replace(MODEL, bond_transformer=None), Labels.unknown())


@pytest.mark.parametrize("left_out", ["contrastive", "position", "bond"])
def test_a_term_without_weight_is_left_out_with_its_networks(left_out):
    whole, encoders = build()
    part, _ = build(**{f"{left_out}_coefficient": 0.0})
    network = {"contrastive": "projections", "position": "position_score", "bond": "bond_score"}[left_out]
    names = {name for name, _ in whole.named_parameters()}
    assert {name for name, _ in part.named_parameters()} == {n for n in names if not n.startswith(network)}
    branch = {"contrastive": "contrast", "position": "2D to 3D", "bond": "3D to 2D"}[left_out]
    terms = part.terms(molecule_batch(DRUGS[:4]), encoders, seeded())
    assert set(terms) == {"contrast", "2D to 3D", "3D to 2D"} - {branch}
    if left_out != "contrastive":
        method = {"position": part.conformer_distribution, "bond": part.bond_distribution}[left_out]
        with pytest.raises(ConfigError, match="does not generate"):
            method(molecule_batch(DRUGS[:4]), encoders)


def test_an_objective_without_terms_and_an_encoder_that_nothing_trains_are_refused():
    nothing = dict.fromkeys(("contrastive_coefficient", "position_coefficient", "bond_coefficient"), 0.0)
    with pytest.raises(ConfigError, match="all three coefficients are 0"):
        MoleculeSDEConfig(**nothing)
    to_3d = objective_config("moleculesde", **{**nothing, "position_coefficient": 1.0})
    with pytest.raises(ConfigError, match=r"geometry_transformer, the 3D encoder, .*model/encoder_3d=none"):
        build_objective(to_3d, MODEL, Labels.unknown())
    objective = build_objective(to_3d, replace(MODEL, geometry_transformer=None), Labels.unknown())
    assert objective.modalities == {"2d"}


def test_projections_free_the_widths_of_the_encoders_and_get_gradients():
    model = replace(MODEL, graph_transformer=replace(MODEL.graph_transformer, hidden=32))
    objective, encoders = MoleculeSDE(MoleculeSDEConfig(projection=24), model, Labels.unknown()), Encoders(model)
    term = objective.terms(molecule_batch(DRUGS[:6]), encoders, seeded())["contrast"]
    term.loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in objective.projections.parameters())
    with pytest.raises(ConfigError, match=r"the same width: got 96 for the 2D and 64 for the 3D"):
        MoleculeSDE(MoleculeSDEConfig(projection=None), model, Labels.unknown())


def test_prediction_without_negatives_leaves_its_target_alone():
    objective, encoders = build(contrastive="predictive", position_coefficient=0.0, bond_coefficient=0.0)
    rows = torch.randn(2, 6, objective.config.projection, generator=seeded())
    x, y = (F.normalize(side, dim=1).requires_grad_() for side in rows)
    loss, accuracy = objective.contrastive(x, y, 1.0, seeded())
    of_x, of_y = objective.contrastive.heads
    sides = [1 - F.cosine_similarity(head(own), other.detach()) for head, own, other in ((of_x, x, y), (of_y, y, x))]
    assert loss.item() == pytest.approx(torch.cat(sides).mean().item(), rel=1e-5)
    assert 0 <= accuracy <= 1
    found = torch.autograd.grad(loss, x)[0]
    torch.testing.assert_close(found, torch.autograd.grad(0.5 * sides[0].mean(), x)[0])
    term = objective.terms(molecule_batch(DRUGS[:6]), encoders, seeded())["contrast"]
    term.loss.backward()
    assert all(p.grad is not None for p in [*objective.parameters(), *encoders.parameters()])
    with pytest.raises(ConfigError, match="contrastive=predictive predicts projections"):
        MoleculeSDEConfig(contrastive="predictive", projection=None)


@pytest.mark.slow
def test_a_batch_is_learned():
    objective, encoders = build(contrastive_coefficient=0.0)
    batch = molecule_batch(DRUGS[:8])
    optimizer = torch.optim.AdamW([*objective.parameters(), *encoders.parameters()], 2e-3)
    losses = []
    for step in range(300):
        optimizer.zero_grad()
        output = objective(batch, encoders, seeded(step))
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_([*objective.parameters(), *encoders.parameters()], 1.0)
        optimizer.step()
        losses.append(output.metrics)
    for name in ("position_score", "bond_score", "charge_score"):
        first, last = (torch.stack([m[name] for m in part]).mean().item() for part in (losses[:20], losses[-50:]))
        assert last < 0.6 * first, (name, first, last)
