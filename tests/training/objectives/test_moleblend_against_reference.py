"""The published form of MoleBLEND against the reference of ``benchmarks/``, in float64: losses and every gradient."""

from dataclasses import replace

import pytest
import torch

from benchmarks.reference.moleblend import ReferenceMoleBLEND
from benchmarks.reference.moleblend_graph import collate
from benchmarks.reference.moleblend_parameters import as_draws, as_reference
from molstream.training.data.batch import MoleculeBatch
from molstream.training.models.encoders import encode
from molstream.training.module import PretrainingModule, build_module
from molstream.training.objectives.config import MoleBLENDConfig, ObjectiveConfig
from molstream.training.objectives.moleblend import MoleBLEND
from tests.support.molecules import AWKWARD, DRUGS, model_config, molecule_batch, seeded, with_pos

NAMES = {"noise": "noise", "distance": "distance", "direction": "direction", "spd": "path_length", "edge": "path_bonds"}
"""Terms of the reference and our metrics."""


def both(options: MoleBLENDConfig) -> tuple[PretrainingModule, ReferenceMoleBLEND]:
    """Our module and the reference with its weights, float64, without dropout, in training mode."""
    model = model_config("moleblend_paper_tiny")
    sizes = replace(
        model.network("blend_transformer_paper", "moleblend"),
        attention_dropout=0.0,
        activation_dropout=0.0,
        path_dropout=0.0,
    )
    ours = build_module(replace(model, blend_transformer_paper=sizes), ObjectiveConfig(moleblend=options), 0)
    # Weights of the size that training gives them, so that every part of the network counts.
    with torch.no_grad():
        for parameter in ours.encoders.parameters():
            parameter.mul_(4.0)
    reference = ReferenceMoleBLEND(
        sizes.num_layers,
        sizes.hidden,
        sizes.feed_forward,
        sizes.num_heads,
        sizes.num_gaussians,
        options.geometry,
        options.loss_on,
    )
    reference.load_state_dict(as_reference(ours.state_dict()), strict=True)
    return ours.double().train(), reference.double().train()


def in_double(has_pos=None) -> MoleculeBatch:
    smiles = [*DRUGS[:6], *AWKWARD, "C" * 25, "C1CCCCCCCCCCCCCCC1"]
    batch = molecule_batch(smiles, [number % 4 > 0 for number in range(len(smiles))] if has_pos is None else has_pos)
    return with_pos(batch, batch.pos.double())


def assert_equal(ours: torch.Tensor, reference: torch.Tensor, name: str) -> None:
    """To 1e-9 of the tensor's largest entry, or of one."""
    scale = max(1.0, reference.abs().max().item())
    assert (ours - reference).abs().max().item() < 1e-9 * scale, name


@pytest.mark.parametrize("geometry", ["distance", "direction"])
@pytest.mark.parametrize("loss_on", ["all", "hidden"])
def test_losses_and_gradients_are_the_references(geometry, loss_on):
    ours, reference = both(MoleBLENDConfig(geometry=geometry, loss_on=loss_on))
    batch = in_double()
    output = ours(batch, seeded(3))
    output.loss.backward()
    [objective] = ours.objective.parts.values()
    assert isinstance(objective, MoleBLEND)
    with torch.no_grad():
        draws = as_draws(objective.recover(batch, ours.encoders, seeded(3)), batch)
    loss, terms = reference(collate(batch), draws)
    loss.backward()
    for name, value in terms.items():
        assert value > 0.0
        assert_equal(output.metrics[NAMES[name]], value.detach(), name)
    assert_equal(output.loss.detach(), loss.detach(), "loss")
    gradients = as_reference({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    expected = dict(reference.named_parameters())
    assert gradients.keys() == expected.keys()
    for name, parameter in expected.items():
        assert parameter.grad is not None, name
        assert_equal(gradients[name], parameter.grad, name)


@pytest.mark.parametrize("modality", ["2d", "3d", "both"])
def test_what_is_seen_without_blending_is_the_references(modality):
    ours, reference = both(MoleBLENDConfig())
    batch = in_double([True] * len(in_double().has_pos))
    nodes = encode(ours.encoders.encoder_both, modality, batch)
    padded = collate(batch)
    expected, _ = reference.transfer(padded, modality)
    assert_equal(nodes, expected[padded.mask], modality)
