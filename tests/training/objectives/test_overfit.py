"""Whether our form can learn at all: a few molecules by heart, then their conformers and bonds out of pure noise."""

import numpy as np
import pytest
import torch

from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule
from molstream.randomness import keyed_seed
from molstream.training.data.collate import collate_samples
from molstream.training.diffusion.config import SamplerConfig
from molstream.training.evaluation.conformer_scores import score_conformers
from molstream.training.inference.generator import MoleculeGenerator
from molstream.training.inference.trained import Generative
from molstream.training.models.config import (
    GraphTransformerConfig,
    ModelConfig,
    ScoreTransformerConfig,
    TransformerConfig,
)
from molstream.training.module import PretrainingModule, build_module
from tests.support.molecules import objective_config

QM9_SIZE = (
    "CC(=O)N1CCC1",
    "CC1=CC(=O)C=C1",
    "CC1CO1",
    "CCOC(=O)C",
    "C=CC=O",
    "C1CCNCC1",
    "O=C1CCCN1",
    "N#Cc1ccncc1",
    "OCC(O)CO",
    "CC(C)(C)O",
    "c1ccoc1",
    "OCCN",
    "C[C@H](N)C(=O)O",
    "C#CC1CC1O",
    "O=C1C2CC1C2",
    "CC12CC1CO2",
    "NC(=O)C1CN1",
    "CC(O)C(C)C#N",
    "Cc1nocc1N",
    "OC1C2CC1O2",
    "C1CC2CC2O1",
    "CN1C=NC(=O)C1",
    "FC(F)(F)CO",
    "O=CNC1CC1",
    "CC#CCC=O",
    "COC(=N)C#N",
    "[NH3+]CC([O-])=O",
    "Nc1cc[nH]n1",
    "C1=CC2CCC1O2",
    "OCC1=CCC1",
    "CCC(=O)CO",
    "C[C@@H]1C[C@H]1CO",
)
"""32 molecules of 4 to 9 heavy atoms."""
COPIES = 4
"""How often a batch holds every molecule, each time with other noise."""
STEPS, LEARNING_RATE = 1500, 2e-3


def model() -> ModelConfig:
    """Wide and deep enough to know them by heart, and no more."""
    trunk = lambda layers: TransformerConfig(  # noqa: E731
        hidden=96, num_layers=layers, num_heads=4, feed_forward=288, pair_hidden=32
    )
    return ModelConfig(
        graph_transformer=GraphTransformerConfig(**vars(trunk(2))),
        geometry_transformer=trunk(2),
        position_transformer=ScoreTransformerConfig(trunk=trunk(3), readout_hidden=96),
        bond_transformer=ScoreTransformerConfig(trunk=trunk(2), readout_hidden=96),
    )


def learn(samples: list[MoleculeSample]) -> PretrainingModule:
    """The default objective, minimised on one batch."""
    module = build_module(model(), objective_config("moleculesde"), seed=0)
    optimizer = torch.optim.AdamW(module.parameters(), LEARNING_RATE, weight_decay=0.0)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=100)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS - 100)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], [100])
    batch = collate_samples(samples * COPIES, np.zeros(len(samples) * COPIES, np.uint64))
    for step in range(STEPS):
        optimizer.zero_grad()
        module(batch, torch.Generator().manual_seed(keyed_seed(0, step))).loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return module.eval()


@pytest.mark.slow
def test_conformers_and_bonds_of_molecules_known_by_heart_are_generated():
    found = [featurize(RawMolecule(text, "smiles", "", row), FeaturizeConfig()) for row, text in enumerate(QM9_SIZE)]
    samples = [sample for sample in found if isinstance(sample, MoleculeSample)]
    assert len(samples) == 32
    module = learn(samples)
    generator = MoleculeGenerator(
        Generative(module, FeaturizeConfig(), torch.device("cpu")),
        SamplerConfig(name="dpm_solver_pp", num_steps=50),
    )
    conformers = generator.conformers(samples, repeats=2)
    errors = [
        score_conformers(sample.smiles, sample.positions, positions, 0.5).mat_r
        for sample, positions in zip(samples, conformers, strict=True)
    ]
    print("MAT-R", np.mean(errors), sorted(zip(np.round(errors, 2), QM9_SIZE, strict=True))[-4:])
    exact = 0
    for sample, [bonds] in zip(samples, generator.bonds(samples), strict=True):
        truth = dict(zip(map(tuple, np.sort(sample.bond_index.T).tolist()), sample.bond_features[:, 0].tolist()))
        generated = dict(zip(map(tuple, bonds.bond_index.T.tolist()), bonds.bond_type.tolist()))
        exact += truth == generated and np.array_equal(bonds.formal_charge, sample.atom_features[:, 3])
    print("bonds recovered", exact, "of", len(samples))
    assert np.mean(errors) < 0.3
    assert exact >= 0.95 * len(samples)
