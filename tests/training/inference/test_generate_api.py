"""``molstream.generate``: a row for every input, the conformers of the generator, reasons where there are none."""

from typing import Any

import numpy as np
import pytest
from rdkit import Chem

from molstream.errors import CheckpointError, ConfigError
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import RawMolecule
from molstream.training.diffusion.config import SamplerConfig
from molstream.training.inference.generate import generate
from molstream.training.inference.generate_files import conformer_inputs
from molstream.training.inference.generator import MoleculeGenerator

FAST = SamplerConfig(num_steps=5, eps=1e-3)


def test_every_input_has_its_row_with_conformers_or_a_reason(small_run):
    texts = ["CCO", "not a molecule", "OC(=O)c1ccccc1O", "*C"]
    found = generate(small_run, texts, num_conformers=3, sampler=FAST, device="cpu", batch_size=4)
    assert [result.text for result in found] == texts
    assert [result.mol is None for result in found] == [False, True, False, True]
    assert [result.failure is None for result in found] == [True, False, True, False]
    assert found[1].failure.startswith("parse: unparsable: ")
    generator = MoleculeGenerator.load(small_run, FAST, device="cpu")
    config = conformer_inputs(generator.trained.featurize)
    for result in (found[0], found[2]):
        assert Chem.CanonSmiles(result.text) == Chem.MolToSmiles(result.mol)
        positions = np.array([conformer.GetPositions() for conformer in result.mol.GetConformers()])
        [expected] = generator.conformers([featurize(result.text, config)], 3)
        np.testing.assert_allclose(positions, expected, atol=1e-3)
        assert [conformer.GetId() for conformer in result.mol.GetConformers()] == [0, 1, 2]


def test_one_text_is_one_molecule_and_records_are_taken_too(small_run):
    [one] = generate(small_run, "CCO", sampler=FAST, device="cpu")
    [record] = generate(small_run, [RawMolecule("OCC", "smiles", "a.csv", 7, (1.0,))], sampler=FAST, device="cpu")
    assert np.array_equal(one.mol.GetConformer().GetPositions(), record.mol.GetConformer().GetPositions())
    [other] = generate(small_run, "CCO", sampler=FAST, seed=1, device="cpu")
    assert not np.allclose(one.mol.GetConformer().GetPositions(), other.mol.GetConformer().GetPositions(), atol=0.1)
    assert generate(small_run, [], sampler=FAST, device="cpu") == []


def test_what_cannot_be_is_refused(small_run, export):
    for name in ("num_conformers", "batch_size"):
        with pytest.raises(ConfigError, match=f"generate: {name}=0: expected at least 1"):
            generate(small_run, ["C"], **{name: 0})
    with pytest.raises(ConfigError, match="n_jobs"):
        generate(small_run, ["C"], n_jobs=0)
    with pytest.raises(CheckpointError, match=r"has no heads\.safetensors: it can embed, but not generate"):
        generate(export, ["C"])
    with pytest.raises(CheckpointError, match="no checkpoint of step 5"):
        generate(small_run, ["C"], step=5)


def test_child_processes_featurize_the_same_molecules_within_their_limits(small_run):
    options: dict[str, Any] = {"sampler": FAST, "device": "cpu"}
    good, bad = generate(small_run, ["CCO", "C1CC"], n_jobs=1, **options)
    [expected] = generate(small_run, "CCO", **options)
    np.testing.assert_array_equal(good.mol.GetConformer().GetPositions(), expected.mol.GetConformer().GetPositions())
    assert bad.failure.startswith("parse: ")
    for name in ("deadline_s", "memory_mib"):
        with pytest.raises(ConfigError, match=name):
            generate(small_run, ["CCO"], n_jobs=1, **{name: 0}, **options)
