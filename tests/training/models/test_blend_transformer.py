"""Encoders of both modalities: what they see, what they do not, and that what is not shown gets no gradient."""

from dataclasses import replace

import pytest
import torch

from molstream.training.models.blending import DISTANCE, PATH_BONDS, PATH_LENGTH, Blend
from molstream.training.models.encoders import Encoders, encode
from molstream.training.models.graph import molecule_pairs
from molstream.training.models.layout import ordered_rows
from molstream.training.module import num_parameters
from tests.support.molecules import AWKWARD, DRUGS, model_config, molecule_batch, permuted, seeded, with_pos

BATCH = molecule_batch([*DRUGS[:4], *AWKWARD])
ROWS = ordered_rows(molecule_pairs(BATCH.batch), BATCH.num_nodes)
PRESETS = ["moleblend_tiny", "moleblend_paper_tiny"]


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def encoder(preset):
    return Encoders(model_config(preset)).encoder_both.double().eval()


def shown(relation, surroundings):
    """A blend that shows one relation of all pairs, and one kind of features of all atoms."""
    relations = torch.full((ROWS.shape[1],), relation) if isinstance(relation, int) else relation
    return Blend(relations, torch.full((BATCH.num_nodes,), surroundings))


def seen(module, modality, batch=BATCH):
    return encode(module, modality, with_pos(batch, batch.pos.double()))


def disturbed(batch, *, positions=False, bonds=False, elements=False):
    generator = seeded(2)
    if positions:
        batch = with_pos(batch, batch.pos + torch.randn(batch.pos.shape, generator=generator))
    if bonds:
        kept = torch.arange(batch.edge_attr.shape[0]) >= 2
        x = batch.x.clone()
        x[:, 1:] = 0
        batch = replace(batch, edge_index=batch.edge_index[:, kept], edge_attr=batch.edge_attr[kept], x=x)
    if elements:
        x = batch.x.clone()
        x[:, 0] = (x[:, 0] + 1) % 100
        batch = replace(batch, x=x)
    return batch


@pytest.mark.parametrize("preset", PRESETS)
def test_each_modality_sees_what_it_should(preset):
    module = encoder(preset)
    whole = {modality: seen(module, modality) for modality in ("2d", "3d", "both")}
    for modality, nodes in whole.items():
        assert torch.isfinite(nodes).all()
        moved = torch.equal(seen(module, modality, disturbed(BATCH, positions=True)), nodes)
        assert moved == (modality == "2d"), modality
        assert not torch.equal(seen(module, modality, disturbed(BATCH, elements=True)), nodes)
    assert not torch.allclose(whole["2d"], whole["3d"])
    assert not torch.allclose(whole["both"], whole["3d"])
    for modality in ("2d", "both"):
        assert not torch.equal(seen(module, modality, disturbed(BATCH, bonds=True)), whole[modality])


def test_positions_are_seen_without_bonds_and_features_that_follow_from_them():
    """Of the published form this does not hold: it shows all features of atoms with positions, too."""
    module = encoder("moleblend_tiny")
    torch.testing.assert_close(seen(module, "3d", disturbed(BATCH, bonds=True)), seen(module, "3d"), rtol=0, atol=0)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("relation", [PATH_LENGTH, PATH_BONDS, DISTANCE])
def test_what_is_not_shown_gets_no_gradient(preset, relation):
    module = encoder(preset)
    pos = BATCH.pos.double().requires_grad_()
    blend = shown(relation, relation == DISTANCE)
    graphs = BATCH.x, BATCH.edge_index, BATCH.edge_attr
    module(*graphs, pos, BATCH.batch, blend).nodes.square().sum().backward()
    names = {
        "moleblend_tiny": {PATH_LENGTH: "path_lengths.", PATH_BONDS: "path_bonds.", DISTANCE: "distances."},
        "moleblend_paper_tiny": {PATH_LENGTH: "paths.length.", PATH_BONDS: "paths.bond", DISTANCE: "space.bias."},
    }[preset]
    for of, prefix in names.items():
        gradients = [p.grad for name, p in module.named_parameters() if name.startswith(prefix)]
        assert gradients
        assert all((g is not None and bool(g.any())) == (of == relation) for g in gradients), prefix
    assert bool(pos.grad is not None and pos.grad.any()) == (relation == DISTANCE)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_molecule_does_not_depend_on_its_batch(preset):
    module, first = encoder(preset), molecule_batch(DRUGS[:1])
    for modality in ("2d", "3d", "both"):
        alone = seen(module, modality, first)
        torch.testing.assert_close(alone, seen(module, modality)[: len(alone)], rtol=1e-9, atol=1e-11)


def test_the_order_of_atoms_does_not_matter_in_a_blend():
    """Of the published form it does, where a pair has several shortest paths."""
    module = encoder("moleblend_tiny")
    relation = torch.randint(3, (ROWS.shape[1],), generator=seeded(3))
    surroundings = torch.rand(BATCH.num_nodes, generator=seeded(4)) < 0.5
    other, order = permuted(BATCH, seeded(5))
    number = {pair: row for row, pair in enumerate(map(tuple, ROWS.T.tolist()))}
    rows = ordered_rows(molecule_pairs(other.batch), other.num_nodes)
    moved = relation[torch.tensor([number[pair] for pair in map(tuple, order[rows].T.tolist())])]
    found = seen(module, Blend(moved, surroundings[order]), other)
    torch.testing.assert_close(found, seen(module, Blend(relation, surroundings))[order], rtol=1e-9, atol=1e-11)


def test_the_published_encoder_has_its_size():
    with torch.device("meta"):
        encoders = Encoders(model_config("moleblend_paper"))
    assert num_parameters(encoders) == pytest.approx(47.2e6, abs=0.05e6)
    assert num_parameters(encoders.encoder_both.blocks) == pytest.approx(42.6e6, abs=0.05e6)
