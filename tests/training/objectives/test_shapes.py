"""Regression of a conformer's shape: its numbers against RDKit's, what they do not depend on, and whom they teach."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors
from rdkit.Geometry import Point3D

from molstream.errors import ConfigError
from molstream.preprocessing.featurize import featurize
from molstream.training.data.collate import collate_samples
from molstream.training.data.labels import Labels
from molstream.training.models.encoders import Encoders
from molstream.training.objectives.config import ObjectiveConfig, ShapesConfig
from molstream.training.objectives.shapes import TYPICAL, Shapes, shape
from molstream.training.objectives.table import build_objective
from tests.support.molecules import DRUGS, model_config, molecule_batch, seeded

MODEL = model_config("tiny")


def test_the_numbers_are_rdkit_s():
    samples = [featurize(text) for text in DRUGS[:6]]
    found = shape(collate_samples(samples)).double().numpy()
    for sample, numbers in zip(samples, found, strict=True):
        mol = Chem.MolFromSmiles(sample.smiles)
        conformer = Chem.Conformer(mol.GetNumAtoms())
        for k, place in enumerate(sample.positions[0].tolist()):
            conformer.SetAtomPosition(k, Point3D(*place))
        mol.AddConformer(conformer)
        functions = rdMolDescriptors.CalcNPR1, rdMolDescriptors.CalcNPR2
        ratios = [function(mol, useAtomicMasses=False) for function in functions]
        radius = rdMolDescriptors.CalcRadiusOfGyration(mol, useAtomicMasses=False)
        np.testing.assert_allclose(numbers[:3], [np.log(radius), *ratios], rtol=1e-4)
        # The first of USR's four places is the centroid.
        np.testing.assert_allclose(numbers[3:], rdMolDescriptors.GetUSR(mol)[:3], rtol=1e-3, atol=1e-3)


def test_motions_reflections_and_the_order_of_atoms_change_nothing():
    batch = molecule_batch(DRUGS[:5])
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=seeded(1)))
    moved = replace(batch, pos=batch.pos @ turn + 2.0)
    torch.testing.assert_close(shape(moved), shape(batch), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shape(replace(batch, pos=-batch.pos)), shape(batch), rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_mean_over_molecules_with_a_shape():
    objective, encoders = Shapes(ShapesConfig(), MODEL, Labels.unknown()), Encoders(MODEL)
    torch.nn.init.normal_(objective.heads["3d"][-1].weight)
    batch = molecule_batch([*DRUGS[:4], "C"], [True, True, False, True, True])
    [(name, term)] = objective.terms(batch, encoders, seeded()).items()
    assert name == "shape 3D"
    predicted = objective.heads["3d"](encoders.molecules("3d", batch)).detach()
    centre, spread = np.array(list(TYPICAL.values())).T
    errors = (predicted.numpy() - (shape(batch).numpy() - centre) / spread) ** 2
    # Neither the one without a conformer, nor the single atom.
    assert term.loss.item() == pytest.approx(errors[[0, 1, 3]].mean(), rel=1e-4)
    term.loss.backward()
    assert all(p.grad is None for p in encoders.encoder_2d.parameters())
    assert any(p.grad is not None and p.grad.any() for p in encoders.encoder_3d.parameters())


def test_without_a_shape_the_loss_is_zero_with_gradient():
    objective, encoders = Shapes(ShapesConfig(), MODEL, Labels.unknown()), Encoders(MODEL)
    [term] = objective.terms(molecule_batch(["C", "O"]), encoders, seeded()).values()
    term.loss.backward()
    assert term.loss.item() == 0.0
    assert all(p.grad.isfinite().all() for p in objective.heads.parameters())


def test_it_needs_a_3d_encoder_and_leaves_the_2d_encoder_to_others():
    with pytest.raises(ConfigError, match="objective=shapes: the model has no 3D encoder"):
        Shapes(ShapesConfig(), replace(MODEL, geometry_transformer=None), Labels.unknown())
    with pytest.raises(ConfigError, match="the 2D encoder, is trained by no term of objective=shapes"):
        build_objective(ObjectiveConfig(shapes=ShapesConfig()), MODEL, Labels.unknown())
