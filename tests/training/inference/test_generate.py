"""Generation: from a run on disk to molecules, and its evaluation."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from molstream.errors import CheckpointError, ConfigError
from molstream.pipeline.shards.codec import SCHEMA, samples
from molstream.pipeline.shards.reader import ShardDataset
from molstream.preprocessing.config import FeaturizeConfig, StandardizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule
from molstream.training.diffusion.config import SamplerConfig
from molstream.training.diffusion.sampling import SAMPLERS
from molstream.training.evaluation.gallery import read_gallery, write_gallery
from molstream.training.evaluation.generated import in_every
from molstream.training.inference.generator import MoleculeGenerator
from tests.support.datasets import molstream
from tests.support.molecules import AWKWARD

KEEP_ALL = FeaturizeConfig(standardize=StandardizeConfig(largest_fragment=False, neutralise=False))
"""Salts stay salts, and ions ions."""
FAST = SamplerConfig(num_steps=5, eps=1e-3)
SETTINGS = ("sampler.num_steps=5", "device=cpu")


@pytest.fixture(scope="module")
def run(small_run: Path) -> Path:
    """Of our form."""
    return small_run


@pytest.fixture(scope="module")
def faithful_run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pretraining run of the published form."""
    run_dir = tmp_path_factory.mktemp("faithful") / "run"
    molstream(
        "pretrain",
        "experiment=paper",
        f"data.path={dataset}",
        f"run_dir={run_dir}",
        "model=paper_tiny",
        "data.lanes=1",
        "data.micro_batch=8",
        "steps=1",
    )
    return run_dir


@pytest.fixture(scope="module")
def molecules(dataset: Path):
    """The first molecules of the dataset, then single atoms, diatomics, lines and salts."""
    found = samples(ShardDataset(dataset).read_rows(np.arange(6), SCHEMA.names))
    awkward = [featurize(RawMolecule(text, "smiles", "", row, (0.0,)), KEEP_ALL) for row, text in enumerate(AWKWARD)]
    assert all(isinstance(sample, MoleculeSample) and len(sample.positions) for sample in awkward)
    return [*found, *awkward]


def test_conformers_depend_on_molecule_seed_and_number_alone(run, molecules):
    """Not on the batch, up to rounding: the first molecule alone, and last among others."""
    together = MoleculeGenerator.load(run, FAST, device="cpu").conformers(molecules, repeats=2)
    assert [found.shape for found in together] == [(2, sample.num_atoms, 3) for sample in molecules]
    assert all(found.dtype == np.float32 and np.isfinite(found).all() for found in together)
    assert all(np.abs(found.mean(1)).max() < 1e-5 for found in together)
    alone = MoleculeGenerator.load(run, FAST, device="cpu", batch_size=1).conformers(molecules[:1], repeats=2)[0]
    np.testing.assert_allclose(alone, together[0], atol=1e-3)
    assert np.abs(alone[0] - alone[1]).max() > 0.1
    other = MoleculeGenerator.load(run, FAST, device="cpu", seed=1).conformers(molecules[:1])[0]
    assert np.abs(other[0] - alone[0]).max() > 0.1


def test_positions_of_the_input_are_not_looked_at_for_conformers_nor_bonds_for_bonds(run, molecules):
    generator = MoleculeGenerator.load(run, FAST, device="cpu")
    moved = [replace(sample, positions=sample.positions + 1.0 + sample.positions**2) for sample in molecules]
    for before, after in zip(generator.conformers(molecules), generator.conformers(moved), strict=True):
        assert np.array_equal(before, after)
    stripped = [
        replace(
            sample,
            bond_index=sample.bond_index[:, :0],
            bond_features=sample.bond_features[:0],
            atom_features=np.where(np.arange(9) == 0, sample.atom_features, 0).astype(np.uint8),
        )
        for sample in molecules
    ]
    for before, after in zip(generator.bonds(molecules), generator.bonds(stripped), strict=True):
        assert np.array_equal(before[0].bond_index, after[0].bond_index)
        assert np.array_equal(before[0].formal_charge, after[0].formal_charge)


def test_progress_is_told_to_the_end(run, molecules):
    seen: list[float] = []
    MoleculeGenerator.load(run, FAST, device="cpu", batch_size=4).conformers(molecules, 2, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 2 * len(molecules)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_gives_finite_positions(run, molecules, name):
    generator = MoleculeGenerator.load(run, SamplerConfig(name=name, num_steps=4, eps=1e-3), device="cpu")
    assert all(np.isfinite(found).all() for found in generator.conformers(molecules))
    for sample, [bonds] in zip(molecules, generator.bonds(molecules), strict=True):
        assert bonds.formal_charge.shape == (sample.num_atoms,)
        assert (bonds.bond_index[0] < bonds.bond_index[1]).all()
        assert bonds.bond_index.max(initial=0) < sample.num_atoms
        assert ((bonds.bond_type >= 0) & (bonds.bond_type < 5)).all()


def test_the_faithful_form_generates_conformers_and_says_that_it_does_not_generate_bonds(faithful_run, molecules):
    generator = MoleculeGenerator.load(faithful_run, FAST, device="cpu")
    assert all(np.isfinite(found).all() for found in generator.conformers(molecules))
    with pytest.raises(ConfigError, match=r"MoleculeSDE does not generate bonds.*moleculesde"):
        generator.bonds(molecules)


def test_what_is_no_run_or_checkpoint_is_told(run, tmp_path):
    with pytest.raises(ConfigError, match="is not a run"):
        MoleculeGenerator.load(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint of step 77; there are"):
        MoleculeGenerator.load(run, step=77)
    with pytest.raises(ConfigError, match="device=abacus: expected auto, cpu"):
        MoleculeGenerator.load(run, device="abacus")


def read_sdf(path: Path) -> list[Chem.Mol]:
    return list(Chem.SDMolSupplier(str(path)))


def test_the_commands_write_every_molecule_or_its_failure(run, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("smiles\nCCO\nC[C@H](N)C(=O)O\nnonsense\n[Na+].[Cl-]\nC\n")
    sdf = tmp_path / "conformers.sdf"
    command = ("generate", "conformers", f"run_dir={run}", f"input={source}", f"output={sdf}", "repeats=3", *SETTINGS)
    done = molstream(*command)
    assert "12 molecules, 1 failures" in done.stdout
    assert "samples  15.0/15" in done.stderr
    found = read_sdf(sdf)
    assert [(int(m.GetProp("row")), int(m.GetProp("repeat"))) for m in found] == [
        (row, repeat) for row in (0, 1, 3, 4) for repeat in range(3)
    ]
    assert Chem.MolToSmiles(found[0]) == "CCO"
    assert found[3].GetProp("_Name") == "C[C@H](N)C(=O)O"
    assert found[0].GetConformer().Is3D()
    [failure] = pq.read_table(tmp_path / "conformers.failures.parquet").to_pylist()
    assert (failure["source"], failure["row"], failure["text"], failure["repeat"]) == ("in.csv", 2, "nonsense", None)
    assert "unparsable" in failure["failure"]
    before = sdf.read_bytes()
    molstream(*command)
    assert sdf.read_bytes() == before

    output = tmp_path / "bonds.sdf"
    done = molstream("generate", "bonds", f"run_dir={run}", f"input={source}", f"output={output}", *SETTINGS)
    failures = pq.read_table(tmp_path / "bonds.failures.parquet").to_pylist()
    written = read_sdf(output)
    assert len(written) + len(failures) == 5
    assert all(mol is not None for mol in written)
    assert {int(m.GetProp("row")) for m in written} | {failure["row"] for failure in failures} == set(range(5))


def test_a_gallery_on_a_full_disk_is_no_gallery(disk):
    (disk.folder / "filler").write_bytes(bytes(1 << 14))
    disk.fill()
    with pytest.raises(OSError, match="No space left") as failed:
        write_gallery(["CCO"], [np.eye(3)[None]], {"ETKDG": [np.eye(3)[None]]}, disk.folder / "gallery.sdf")
    assert failed.value.filename == str(disk.folder / "gallery.sdf")
    assert [path.name for path in disk.folder.iterdir()] == ["filler"]


def test_the_command_explains_itself(run, tmp_path):
    for arguments in ((), ("poems",)):
        refused = molstream("generate", *arguments, check=False)
        assert refused.returncode == 2
        assert "expected conformers or bonds" in refused.stderr


@pytest.mark.slow
def test_evaluation_stands_beside_etkdg_and_in_the_report(small_run, dataset, tmp_path):
    """The dataset's conformers were made by ETKDG and MMFF94s: asked for as many, that baseline finds them again."""
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    command = (f"run_dir={run}", f"dataset={dataset}", "molecules=12", "per_reference=1", *SETTINGS)
    done = molstream("evaluate", "conformers", *command)
    assert "ETKDG + MMFF94s" in done.stdout
    rows = {row["method"]: row for row in json.loads((run / "conformers.json").read_text())["scores"]}
    assert rows["ETKDG + MMFF94s"]["mat_r"][0] < 1e-3
    assert rows["ETKDG + MMFF94s"]["cov_p"] == [1.0, 1.0]
    assert 0 < rows["ETKDG"]["mat_r"][0] < 0.5
    assert rows["ETKDG"]["mat_r"][0] < rows["molstream"]["mat_r"][0]
    assert all(row["molecules"] == 12 for row in rows.values())

    molstream("evaluate", "bonds", *command)
    found = json.loads((run / "bonds.json").read_text())
    assert found["molecules"] == 12
    assert 0 <= found["exact"] <= found["same_molecule"] <= found["valid"] <= 1

    for row in read_gallery(run / "conformers.sdf"):
        assert [mol.GetProp("method") for mol in row] == ["reference", "molstream", "ETKDG"]
    molstream("report", f"run_dir={run}")
    page = (run / "report.html").read_text()
    assert "Generated conformers" in page
    assert "generated conformers laid on their references" in page
    assert "Generated bonds" in page


def test_posebusters_judges_what_every_method_has_conformers_of():
    one, none = np.zeros((1, 3, 3)), np.zeros((0, 3, 3))
    assert in_every([[one, one, none, one], [one, none, one, one]]) == [0, 3]
    assert in_every([[none]]) == []


@pytest.mark.slow
def test_a_dataset_with_other_hydrogens_is_refused(run, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("smiles\nCCO\nCCN\n")
    molstream("preprocess", f"input={source}", f"output={tmp_path / 'all'}", "featurize.hydrogens=all")
    refused = molstream("evaluate", "bonds", f"run_dir={run}", f"dataset={tmp_path / 'all'}", *SETTINGS, check=False)
    assert refused.returncode == 2
    assert "stores hydrogens=all, the run was trained on hydrogens=heavy" in refused.stderr
