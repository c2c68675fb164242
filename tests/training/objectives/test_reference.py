"""The whole faithful form against the reference of ``benchmarks/``, in float64: losses, outputs and every gradient."""

from dataclasses import replace

import pytest
import torch

from benchmarks.reference.moleculesde import ReferenceMoleculeSDE, draw
from benchmarks.reference.parameters import as_reference
from benchmarks.reference.position_score import extended_edges
from molstream.training.data.batch import MoleculeBatch
from molstream.training.diffusion.draws import symmetric_normal
from molstream.training.diffusion.graph_score import mask_pairs
from molstream.training.models.config import ModelConfig
from molstream.training.module import PretrainingModule, build_module
from molstream.training.objectives.config import ObjectiveConfig, PaperMoleculeSDEConfig
from molstream.training.objectives.moleculesde_paper import PaperMoleculeSDE, dense_graph
from tests.support.molecules import AWKWARD, DRUGS, model_config, molecule_batch, num_parameters, paper_tiny, seeded

TERMS = ("contrastive", "position_score", "graph_score_x", "graph_score_adj")


def both(model: ModelConfig, values: PaperMoleculeSDEConfig) -> tuple[PretrainingModule, ReferenceMoleculeSDE]:
    """Our module and the reference with its weights, float64, without dropout, in training mode."""
    model = replace(model, position_score=replace(model.network("position_score", "moleculesde_paper"), dropout=0.0))
    ours = build_module(model, ObjectiveConfig(moleculesde_paper=values), seed=0).double().train()
    reference = ReferenceMoleculeSDE(model, values).double().train()
    reference.load_state_dict(as_reference(ours.state_dict()), strict=True)
    return ours, reference


def in_double(smiles: list[str]) -> MoleculeBatch:
    batch = molecule_batch(smiles)
    return replace(batch, pos=batch.pos.double())


def assert_equal(ours: torch.Tensor, reference: torch.Tensor, name: str) -> None:
    """To 1e-9 of the tensor's largest entry, or of one."""
    scale = max(1.0, reference.abs().max().item())
    assert (ours - reference).abs().max().item() < 1e-9 * scale, name


VP = PaperMoleculeSDEConfig(position_sde="VP02", graph_sde="VP02", position_variant="01", anneal_power=2.0)
SUB_VP = PaperMoleculeSDEConfig(position_sde="subVP", graph_sde="VE03", contrastive_coefficient=0.3)


@pytest.mark.parametrize(
    ("model", "smiles", "values"),
    [
        (paper_tiny(), [*DRUGS[:6], *AWKWARD], PaperMoleculeSDEConfig()),
        (
            paper_tiny(),
            [*DRUGS[:6], *AWKWARD],
            VP,
        ),
        (
            paper_tiny(),
            [*DRUGS[:6], *AWKWARD],
            SUB_VP,
        ),
        (model_config("paper"), [*DRUGS[:6], *AWKWARD], PaperMoleculeSDEConfig()),
    ],
    ids=["tiny-VE", "tiny-VP02-01", "tiny-subVP-VE03", "paper-VE"],
)
def test_losses_and_gradients_are_the_references(model, smiles, values):
    ours, reference = both(model, values)
    batch = in_double(smiles)
    output = ours(batch, seeded(3))
    output.loss.backward()
    loss, terms = reference(batch, draw(batch, seeded(3)))
    loss.backward()
    for name in TERMS:
        assert_equal(output.metrics[name], terms[name].detach(), name)
    assert_equal(output.loss.detach(), loss.detach(), "loss")
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    in_its_names = as_reference({name: gradient for name, gradient in gradients.items() if gradient is not None})
    expected = dict(reference.named_parameters())
    assert in_its_names.keys() == expected.keys()
    for name, parameter in expected.items():
        # The reference leaves the last layer's unread atom rows without a gradient.
        assert_equal(
            in_its_names[name], torch.zeros_like(parameter) if parameter.grad is None else parameter.grad, name
        )


@pytest.mark.parametrize("variant", ["01", "02"])
def test_encoders_and_score_networks_give_the_references_outputs(variant):
    ours, reference = both(paper_tiny(), PaperMoleculeSDEConfig(position_variant=variant))
    batch, encoders, objective = (
        in_double([*DRUGS[:6], *AWKWARD]),
        ours.encoders,
        ours.objective.parts["moleculesde_paper"],
    )
    assert isinstance(objective, PaperMoleculeSDE)
    graph = batch.x, batch.edge_index, batch.edge_attr
    z_2d = encoders.encoder_2d(*graph, batch.batch)
    assert_equal(z_2d, reference.encoder_2d(*graph), "2D encoder")
    z_3d = encoders.encoder_3d(batch.x[:, 0], batch.pos, batch.batch)
    assert_equal(z_3d, reference.encoder_3d(batch.x[:, 0], batch.pos, batch.batch), "3D encoder")

    noised = batch.pos + 0.3 * torch.randn(batch.pos.shape, generator=seeded(1), dtype=torch.float64)
    edges = extended_edges(batch.edge_index, batch.batch)
    vectors = objective.position_score(z_2d, noised, edges[:, edges[0] < edges[1]])
    assert_equal(vectors, reference.position_score(z_2d, noised, edges), "2D to 3D")

    x, adj, z = dense_graph(batch, z_3d)
    flags = adj.sum(2) > 0
    adj = mask_pairs(adj + 0.3 * symmetric_normal(*flags.shape, seeded(2)).double(), flags)
    expected = reference.graph_score(z, x, adj, flags.double())
    for output, literal in zip(objective.graph_score(z, x, adj, flags), expected, strict=True):
        assert_equal(output, literal, "3D to 2D")


def test_the_reference_has_the_papers_sizes():
    reference = ReferenceMoleculeSDE(model_config("paper"), PaperMoleculeSDEConfig())
    assert num_parameters(reference) == 1_885_205 + 1_359_708 + 256_938 + 1_166_676
