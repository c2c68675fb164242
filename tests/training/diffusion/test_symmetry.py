"""One harness for every encoder and score network: each behaves under each motion as its class declares.

Errors are relative to the largest output. Each motion is tried in float32 and float64; that the error falls by the
ratio of the precisions shows that it is rounding and not a broken symmetry hidden below a tolerance.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import nn

from molstream.config import tree_of
from molstream.training.data.batch import MoleculeBatch
from molstream.training.diffusion.bond_transformer import BondTransformer, one_hot_bonds, one_hot_charges
from molstream.training.diffusion.graph_score import GraphScore
from molstream.training.diffusion.position_score import EDGE_ATTRIBUTES, PositionScore
from molstream.training.diffusion.position_transformer import PositionTransformer
from molstream.training.diffusion.score_trunk import NoiseLevel
from molstream.training.models.blending import Modality
from molstream.training.models.config import ComENetConfig, ModelConfig, PaiNNConfig
from molstream.training.models.encoders import ENCODERS, encode
from molstream.training.models.graph import extended_edges, molecule_pairs
from molstream.training.models.relations import topology
from molstream.training.models.stereo import CHIRALITY, CLOCKWISE, COUNTERCLOCKWISE
from molstream.training.models.symmetry import INVARIANT, Symmetry
from molstream.training.objectives.moleculesde_paper import dense_graph
from tests.support.molecules import AWKWARD, DRUGS, model_config, molecule_batch, permuted, rotation, seeded, with_pos

SIZES = {
    name: getattr(model_config(preset), name)
    for preset in ("paper_tiny", "tiny", "moleblend_tiny", "moleblend_paper_tiny")
    for name in tree_of(model_config(preset))
} | {
    "painn": PaiNNConfig(hidden=64, num_interactions=2, num_gaussians=11, cutoff=4.0),
    "comenet": ComENetConfig(hidden=64, middle=16, num_blocks=2, cutoff=5.0),
}
"""Narrow networks of every kind."""
OF_BOTH: tuple[tuple[str, Modality], ...] = (
    ("blend_transformer", "2d"),
    ("blend_transformer", "3d"),
    ("blend_transformer", "both"),
    ("blend_transformer_paper", "3d"),
)
"""Encoders and what they see. Of bonds the published form reads one path, which the order of atoms selects."""
WIDTH = 64
MODALITIES = {field.name: field.metadata.get("encoder") for field in fields(ModelConfig)}
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-11}

Outputs = tuple[torch.Tensor, torch.Tensor]
"""Rows per atom [n, k], and a value per ordered atom pair [n, n], zero between molecules or where there is none."""


@dataclass
class Subject:
    """A network in evaluation mode, and how to run it on a batch."""

    modules: nn.ModuleList
    symmetry: Symmetry
    run: Callable[[MoleculeBatch], Outputs]


def encoder_2d(name: str) -> Subject:
    encoder = ENCODERS[name](SIZES[name])
    run = lambda batch: no_pairs(encoder(batch.x, batch.edge_index, batch.edge_attr, batch.batch))  # noqa: E731
    return Subject(nn.ModuleList([encoder]), encoder.symmetry, run)


def encoder_3d(name: str, **changes: object) -> Subject:
    encoder = ENCODERS[name](replace(SIZES[name], **changes))
    return Subject(
        nn.ModuleList([encoder]),
        encoder.symmetry,
        lambda batch: no_pairs(encoder(batch.x[:, 0], batch.pos, batch.batch)),
    )


def encoder_of_both(name: str, modality: Modality) -> Subject:
    """Positions enter unless only the bond graph is seen."""
    encoder = ENCODERS[name](SIZES[name])
    symmetry = INVARIANT if modality == "2d" else encoder.symmetry
    return Subject(nn.ModuleList([encoder]), symmetry, lambda batch: no_pairs(encode(encoder, modality, batch)))


def position_score(variant: str, kept: tuple[int, ...] = (0, 1, 2)) -> Subject:
    """On the representations of a 2D encoder; only the ``kept`` of e1, e2, e3 enter the output."""
    encoder = ENCODERS["gin"](SIZES["gin"])
    net = PositionScore(SIZES["position_score"], WIDTH, variant)
    for block in net.blocks:
        for dropped in {0, 1, 2} - set(kept):
            block.readout[2].weight.data[dropped] = 0.0
            block.readout[2].bias.data[dropped] = 0.0

    def run(batch):
        edges = extended_edges(batch.edge_index, batch.num_nodes, 4)
        z = encoder(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
        return no_pairs(net(z, batch.pos, edges[:, edges[0] < edges[1]]))

    return Subject(nn.ModuleList([encoder, net]), net.symmetry, run)


def graph_score() -> Subject:
    """On the representations of a 3D encoder, with the clean graph in place of a noised one."""
    encoder = ENCODERS["schnet"](SIZES["schnet"])
    net = GraphScore(SIZES["graph_score"], WIDTH)

    def run(batch):
        x, adj, z = dense_graph(batch, encoder(batch.x[:, 0], batch.pos, batch.batch))
        flags = x.sum(2) > 0
        m_x, m_a = net(z, x, adj, flags)
        return m_x[flags], torch.block_diag(*(m[:n, :n] for m, n in zip(m_a, batch.ptr.diff(), strict=True)))

    return Subject(nn.ModuleList([encoder, net]), net.symmetry, run)


def awakened(network: nn.Module) -> nn.Module:
    """Conditioned blocks start as the identity: give them something to say."""
    for name, parameter in network.named_parameters():
        if "modulation" in name:
            nn.init.normal_(parameter, std=0.05)
    return network


def levels(batch: MoleculeBatch) -> NoiseLevel:
    """Different noise for every molecule, whichever batch it is in."""
    sigma = 0.05 + 0.1 * batch.ptr.diff().to(batch.pos)
    return NoiseLevel(torch.ones_like(sigma), sigma)


def position_transformer(kept: tuple[int, ...] = (0, 1, 2), handed: bool = True) -> Subject:
    """On the representations of a 2D encoder; only the ``kept`` of e1, e2, e3 enter, or atoms that see no hands."""
    encoder = ENCODERS["graph_transformer"](SIZES["graph_transformer"])
    net = PositionTransformer(SIZES["position_transformer"], WIDTH, data_std=1.5, max_hops=4)
    awakened(net)
    net.weights.weight.data[[k for k in range(3) if k not in kept]] = 0.0
    if not handed:
        for layer in (net.chirality_embedding, net.stereo_embedding, net.stereo_weight):
            layer.weight.data.zero_()

    def run(batch):
        z = encoder(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
        paths = topology(batch.edge_index, batch.edge_attr, batch.batch)
        return no_pairs(net(z, batch, paths, batch.pos, levels(batch)))

    return Subject(nn.ModuleList([encoder, net]), net.symmetry, run)


def bond_transformer() -> Subject:
    """On the representations of a 3D encoder without handedness, with the clean bonds in place of noised ones."""
    encoder = ENCODERS["schnet"](SIZES["schnet"])
    net = BondTransformer(SIZES["bond_transformer"], WIDTH)
    awakened(net)

    def run(batch):
        bonds, charges = one_hot_bonds(batch).to(batch.pos), one_hot_charges(batch).to(batch.pos)
        z = encoder(batch.x[:, 0], batch.pos, batch.batch)
        of_pairs, of_atoms = net(z, batch, bonds, charges, levels(batch))
        (i, j), square = molecule_pairs(batch.batch), of_atoms.new_zeros(batch.num_nodes, batch.num_nodes)
        return of_atoms, square.index_put((torch.cat([i, j]), torch.cat([j, i])), of_pairs.sum(1).repeat(2))

    return Subject(nn.ModuleList([encoder, net]), net.symmetry, run)


def no_pairs(rows: torch.Tensor) -> Outputs:
    return rows, rows.new_zeros(len(rows), len(rows))


SUBJECTS = {
    **{f"2d-{name}": lambda name=name: encoder_2d(name) for name in ENCODERS if MODALITIES[name] == "2d"},
    **{f"3d-{name}": lambda name=name: encoder_3d(name) for name in ENCODERS if MODALITIES[name] == "3d"},
    "3d-comenet-chirality": lambda: encoder_3d("comenet", chirality=True),
    **{
        f"{modality}-{name}": lambda name=name, modality=modality: encoder_of_both(name, modality)
        for name, modality in OF_BOTH
    },
    **{f"position_score-{name}": lambda name=name: position_score(name) for name in EDGE_ATTRIBUTES},
    "graph_score": graph_score,
    "position_transformer": position_transformer,
    "bond_transformer": bond_transformer,
}


def prepared(subject: Subject, dtype: torch.dtype, smiles=DRUGS[:10]) -> MoleculeBatch:
    subject.modules.to(dtype).eval()
    batch = molecule_batch(smiles)
    noise = 0.2 * torch.randn(batch.pos.shape, generator=seeded(5))
    return with_pos(batch, (batch.pos + noise).to(dtype))


def moved(batch: MoleculeBatch, matrix: torch.Tensor, shift: float = 0.0) -> MoleculeBatch:
    return with_pos(batch, (batch.pos.double() @ matrix.T + shift).to(batch.pos.dtype))


@torch.no_grad()
def error(got: Outputs, expected: Outputs) -> float:
    scale = torch.cat([part.flatten() for part in expected]).abs().max()
    assert scale > 0
    return max(((a - b).abs().max() / scale).item() for a, b in zip(got, expected, strict=True))


def assert_rounding_only(errors: dict[torch.dtype, float]) -> None:
    for dtype, tolerance in TOLERANCE.items():
        assert errors[dtype] < tolerance, errors
    assert errors[torch.float64] < 1e-6 * max(errors[torch.float32], 1e-7), errors


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("name", SUBJECTS)
def test_permuting_atoms_permutes_the_output(name):
    subject, errors = SUBJECTS[name](), {}
    for dtype in TOLERANCE:
        batch = prepared(subject, dtype)
        shuffled, order = permuted(batch, seeded(1))
        rows, pairs = subject.run(batch)
        errors[dtype] = error(subject.run(shuffled), (rows[order], pairs[order][:, order]))
    assert_rounding_only(errors)


@pytest.mark.parametrize("modality", ["2d", "both"])
def test_the_published_form_does_not_depend_on_the_order_of_atoms_without_rings(modality):
    """A pair then has one path."""
    subject, errors = encoder_of_both("blend_transformer_paper", modality), {}
    for dtype in TOLERANCE:
        batch = prepared(subject, dtype, ["CCO", "CC(C)CC(=O)OCC(F)(F)Cl", "CCCCCCCCC(CC)CN", "CC(=O)[O-].[Na+]"])
        shuffled, order = permuted(batch, seeded(1))
        rows, pairs = subject.run(batch)
        errors[dtype] = error(subject.run(shuffled), (rows[order], pairs))
    assert_rounding_only(errors)


@pytest.mark.parametrize("motion", ["rotation", "reflection", "translation"])
@pytest.mark.parametrize("name", SUBJECTS)
def test_motion_acts_as_declared(name, motion):
    subject, errors = SUBJECTS[name](), {}
    declared = getattr(subject.symmetry, motion)
    matrix = {"rotation": rotation(seeded(2)), "reflection": -rotation(seeded(2)), "translation": torch.eye(3).double()}
    for dtype in TOLERANCE:
        batch = prepared(subject, dtype)
        rows, pairs = subject.run(batch)
        turned = (rows.double() @ matrix[motion].T).to(dtype) if declared == "equivariant" else rows
        shift = 3.0 if motion == "translation" else 0.0
        errors[dtype] = error(subject.run(moved(batch, matrix[motion], shift)), (turned, pairs))
    if declared in ("invariant", "equivariant"):
        assert_rounding_only(errors)
    else:  # "mixed" and "none" have to be true as well: a symmetry that is there should be declared
        assert errors[torch.float64] > 1e-2


@pytest.mark.parametrize("name", SUBJECTS)
def test_bf16_breaks_a_symmetry_by_rounding_only(name, capsys):
    """Networks in bfloat16, as in training: geometry stays in float32, so that turning a molecule costs no more."""
    subject, found = SUBJECTS[name](), {}
    batch, turn = prepared(subject, torch.float32), rotation(seeded(2))
    shuffled, order = permuted(batch, seeded(1))
    with torch.autocast("cpu", torch.bfloat16):
        rows, pairs = (part.float() for part in subject.run(batch))
        turned = (rows.double() @ turn.T).float() if subject.symmetry.rotation == "equivariant" else rows
        found["permutation"] = error(subject.run(shuffled), (rows[order], pairs[order][:, order]))
        found["rotation"] = error(subject.run(moved(batch, turn)), (turned, pairs))
        if subject.symmetry.translation == "invariant":
            found["translation"] = error(subject.run(moved(batch, torch.eye(3).double(), 3.0)), (rows, pairs))
    with capsys.disabled():
        print(f"\nbf16 {name}: " + ", ".join(f"{motion} {value:.1e}" for motion, value in found.items()), end=" ")
    assert max(found.values()) < 0.05


@pytest.mark.parametrize("variant", EDGE_ATTRIBUTES)
@pytest.mark.parametrize(("kept", "sign"), [((0, 2), 1.0), ((1,), -1.0)], ids=["e1_e3", "e2"])
def test_mixed_reflection_is_an_equivariant_and_an_antisymmetric_field(variant, kept, sign):
    subject, errors = position_score(variant, kept), {}
    mirror = -rotation(seeded(3))
    for dtype in TOLERANCE:
        batch = prepared(subject, dtype)
        rows, pairs = subject.run(batch)
        expected = sign * (rows.double() @ mirror.T).to(dtype)
        errors[dtype] = error(subject.run(moved(batch, mirror)), (expected, pairs))
    assert_rounding_only(errors)


def test_the_transformers_field_is_equivariant_where_neither_e2_nor_hands_enter():
    subject, errors = position_transformer(kept=(0, 2), handed=False), {}
    mirror = -rotation(seeded(3))
    for dtype in TOLERANCE:
        batch = prepared(subject, dtype)
        rows, pairs = subject.run(batch)
        expected = (rows.double() @ mirror.T).to(dtype)
        errors[dtype] = error(subject.run(moved(batch, mirror)), (expected, pairs))
    assert_rounding_only(errors)


def test_the_transformers_field_of_the_other_enantiomer_is_the_mirror_image():
    """With the chirality tags of the mirror image; without them it is not, so the tags do reach the field."""
    subject = position_transformer(kept=(0, 2))
    encoder, net = subject.modules
    net.chirality_embedding.weight.data.zero_()
    batch = prepared(subject, torch.float64, ["C[C@H](N)C(=O)O", "F[C@](Cl)(Br)I", "C[C@]1(O)CC[C@@H](C)O1"])
    z = encoder(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
    paths = topology(batch.edge_index, batch.edge_attr, batch.batch)
    x = batch.x.clone()
    x[:, CHIRALITY] = torch.tensor([0, COUNTERCLOCKWISE, CLOCKWISE])[x[:, CHIRALITY]]
    run = lambda x, pos: no_pairs(net(z, replace(batch, x=x), paths, pos, levels(batch)))  # noqa: E731
    mirror = -rotation(seeded(3))
    expected = no_pairs(run(batch.x, batch.pos)[0] @ mirror.T)
    assert error(run(x, batch.pos @ mirror.T), expected) < TOLERANCE[torch.float64]
    assert error(run(batch.x, batch.pos @ mirror.T), expected) > 1e-2


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_batch_is_its_molecules_one_by_one(name):
    subject = SUBJECTS[name]()
    smiles = [*DRUGS[:4], *AWKWARD]
    together = subject.run(prepared(subject, torch.float64, smiles))
    whole = prepared(subject, torch.float64, smiles)
    apart = []
    for number, text in enumerate(smiles):
        alone = molecule_batch([text])
        apart.append(subject.run(with_pos(alone, whole.pos[whole.ptr[number] : whole.ptr[number + 1]])))
    rows, pairs = zip(*apart, strict=True)
    assert error(together, (torch.cat(rows), torch.block_diag(*pairs))) < 1e-11
