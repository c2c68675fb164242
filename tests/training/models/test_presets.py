"""The presets of configs/model: their sizes on the meta device, and the transformer encoders under an objective."""

from dataclasses import replace

import pytest
import torch

from molstream.config import tree_of
from molstream.training.data.labels import Labels
from molstream.training.models.config import ModelConfig
from molstream.training.models.encoders import Encoders
from molstream.training.objectives.config import MoleculeSDEConfig, PaperMoleculeSDEConfig
from molstream.training.objectives.moleculesde import MoleculeSDE
from molstream.training.objectives.moleculesde_paper import PaperMoleculeSDE
from tests.support.molecules import AWKWARD, DRUGS, model_config, molecule_batch, num_parameters, paper_tiny, seeded


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(("name", "nominal"), [("small", 20e6), ("base", 50e6), ("large", 300e6), ("xl", 1.1e9)])
def test_presets_have_their_sizes(name, nominal):
    """Encoders take about two thirds of a preset's parameters, the score networks of our form the rest."""
    config = model_config(name)
    with torch.device("meta"):
        encoders = Encoders(config)
        objective = MoleculeSDE(MoleculeSDEConfig(), config, Labels.unknown())
    assert all(parameter.is_meta for parameter in [*encoders.parameters(), *objective.parameters()])
    assert 0.6 * nominal < num_parameters(encoders) < 0.72 * nominal
    assert num_parameters(encoders) + num_parameters(objective) == pytest.approx(nominal, rel=0.05)
    sizes = replace(config.geometry_transformer, readout=config.graph_transformer.readout)
    assert tree_of(config.graph_transformer) == tree_of(sizes)


def test_the_default_preset_changes_nothing():
    """One default per key: the small preset chooses networks, and leaves their sizes as the dataclasses have them."""
    names = ("graph_transformer", "geometry_transformer", "position_transformer", "bond_transformer")
    assert model_config("small") == ModelConfig(**{name: {} for name in names})


def test_the_objective_trains_both():
    names = ("graph_transformer", "geometry_transformer")
    config = paper_tiny(gin=None, schnet=None, **{name: getattr(model_config("tiny"), name) for name in names})
    encoders, objective = (
        Encoders(config),
        PaperMoleculeSDE(PaperMoleculeSDEConfig(temperature=1.0), config, Labels.unknown()),
    )
    batch = molecule_batch([*DRUGS[:6], *AWKWARD], [True] * 6 + [True, False] * 5)
    losses = []
    optimizer = torch.optim.Adam([*encoders.parameters(), *objective.parameters()], lr=1e-3)
    for step in range(30):
        optimizer.zero_grad()
        output = objective(batch, encoders, seeded(step))
        output.loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in encoders.parameters())
        optimizer.step()
        losses.append(output.metrics["contrastive"].item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
