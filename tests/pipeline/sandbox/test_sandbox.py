"""Real children, real molecules that hang or exhaust memory, real kills: only the culprit is rejected."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from molstream.errors import ConfigError, DataError
from molstream.pipeline.config import SandboxConfig
from molstream.pipeline.sandbox.parent import Sandbox
from molstream.pipeline.shards.codec import decode
from molstream.pipeline.stages.described import FACTS, records
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.featurize import Description, describe, featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection
from tests.conftest import REPOSITORY
from tests.support.samples import assert_all_same

GOOD = ["CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1", "C1CCNCC1", "Cn1cnc2c1c(=O)n(C)c(=O)n2C"]
SLOW = "C" * 250
"""Embedding takes RDKit tens of seconds."""
HUGE = "C" * 2000
"""The distance bounds of its atoms take 300 MiB each."""


def raws(smiles: list[str]) -> list[RawMolecule]:
    return [RawMolecule(text, "smiles", "a.smi", row, (float(row),)) for row, text in enumerate(smiles)]


def expected(molecules: list[RawMolecule], config: FeaturizeConfig) -> list[MoleculeSample]:
    """What the featurizer itself says, in this process."""
    results = [featurize(molecule, config) for molecule in molecules]
    return [result for result in results if isinstance(result, MoleculeSample)]


def through(sandbox: Sandbox, molecules: list[RawMolecule]) -> tuple[list[MoleculeSample], list[Rejection]]:
    """Both stages of all molecules."""
    batches, rejections = sandbox.describe(molecules)
    samples = []
    for batch in batches:
        found, refused = sandbox.embed(records(batch))
        samples += [sample for part in found for sample in decode(records(part))]
        rejections += refused
    return samples, rejections


def keys(sandbox: Sandbox, molecules: list[RawMolecule]) -> list[str]:
    return [key for batch in sandbox.describe(molecules)[0] for key in batch.column("key").to_pylist()]


def test_the_child_gives_what_the_featurizer_gives():
    config = FeaturizeConfig()
    molecules = raws(GOOD * 30 + ["junk", "", "CCO"])
    with Sandbox(SandboxConfig(), config) as sandbox:
        samples, rejections = through(sandbox, molecules)
    assert_all_same(samples, expected(molecules, config))
    assert [(r.row, r.reason) for r in rejections] == [(150, "unparsable"), (151, "empty_input")]


def test_facts_come_with_the_description():
    molecules = raws(["OCCc1ccccc1", "[Na+].[O-]C(=O)C"])
    with Sandbox(SandboxConfig(), FeaturizeConfig(), scaffolds=True) as sandbox:
        (batch,), _ = sandbox.describe(molecules)
    facts = batch.select([field.name for field in FACTS]).to_pylist()
    for molecule, fact in zip(molecules, facts, strict=True):
        alone = describe(molecule, FeaturizeConfig())
        assert isinstance(alone, Description)
        assert (fact["num_rings"], fact["num_rotatable_bonds"]) == (alone.num_rings, alone.num_rotatable_bonds)
        assert tuple(fact["changes"]) == alone.changes
        assert 0 < fact["seconds"] < 5
    assert [fact["scaffold"] for fact in facts] == ["c1ccccc1", ""]


def test_drawings_are_svg_or_none():
    ethanol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    AllChem.EmbedMolecule(ethanol, randomSeed=7)
    block, broken = Chem.MolToMolBlock(ethanol), "no\nmol\nblock\n"
    with Sandbox(SandboxConfig(), FeaturizeConfig()) as sandbox:
        drawings = sandbox.draw(["CCO", "junk", "CN(C)(C)(C)C", "C" * 300, block, broken])
    drawn = [drawing is not None and drawing.startswith("<svg") for drawing in drawings]
    assert drawn == [True, False, True, False, True, False]
    # The hydrogens of the block are its own; those of the SMILES are not drawn.
    assert str(drawings[4]).count("bond-") > str(drawings[0]).count("bond-")


def test_no_molecules_need_no_child():
    with Sandbox(SandboxConfig(), FeaturizeConfig()) as sandbox:
        assert sandbox.describe([]) == ([], [])
        assert sandbox.draw([]) == []
        assert sandbox.child_pid is None


def test_a_molecule_past_its_deadline_costs_only_itself():
    molecules = raws([*GOOD, SLOW, *GOOD])
    config = FeaturizeConfig()
    with Sandbox(SandboxConfig(deadline_s=0.7), config) as sandbox:
        samples, rejections = through(sandbox, molecules)
    assert [(r.row, r.text, r.stage, r.reason) for r in rejections] == [(5, SLOW, "sandbox", "deadline")]
    assert "0.7 s of CPU time" in rejections[0].detail
    assert rejections[0].seconds > 0.7
    assert_all_same(samples, expected(molecules[:5] + molecules[6:], config))


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_molecule_that_exhausts_memory_costs_only_itself(times):
    config = FeaturizeConfig(max_atoms=5000, max_smiles_length=5000)
    molecules = raws([*[*GOOD, HUGE] * times, "CCO"])
    with Sandbox(SandboxConfig(memory_mib=1024), config) as sandbox:
        samples, rejections = through(sandbox, molecules)
    assert [(r.row, r.stage, r.reason) for r in rejections] == [
        (row, "sandbox", "worker_died") for row in (5, 11)[:times]
    ]
    assert "1024 MiB" in rejections[0].detail
    good = [molecule for molecule in molecules if molecule.text != HUGE]
    assert_all_same(samples, expected(good, config))


@pytest.mark.parametrize("after_s", [0.0, 0.3])
def test_a_child_killed_from_outside_blames_nobody_and_loses_nothing(after_s):
    config = FeaturizeConfig()
    molecules = raws([GOOD[k % 5] + "C" * (k % 7) for k in range(60)])
    with Sandbox(SandboxConfig(), config) as sandbox:
        keys(sandbox, molecules[:1])
        victim = sandbox.child_pid
        assert victim is not None
        killer = threading.Timer(after_s, os.kill, (victim, signal.SIGKILL))
        killer.start()
        samples, rejections = through(sandbox, molecules)
        killer.join()
        assert sandbox.child_pid != victim
    assert rejections == []
    assert_all_same(samples, expected(molecules, config))


def test_a_stopped_child_is_noticed_although_it_uses_no_cpu():
    with Sandbox(SandboxConfig(deadline_s=0.1), FeaturizeConfig()) as sandbox:
        sandbox.describe(raws(["C"]))
        assert sandbox.child_pid is not None
        os.kill(sandbox.child_pid, signal.SIGSTOP)
        assert keys(sandbox, raws(["C"])) == keys(sandbox, raws(["[CH4]"]))


def test_a_child_that_cannot_start_is_an_error_and_no_verdict(monkeypatch, tmp_path):
    (tmp_path / "rdkit.py").write_text("raise ImportError('no rdkit on this node')")
    monkeypatch.setattr("sys.executable", str(wrapper(tmp_path)))
    with (
        Sandbox(SandboxConfig(), FeaturizeConfig()) as sandbox,
        pytest.raises(DataError, match=r"does not start .*no rdkit on this node"),
    ):
        sandbox.describe(raws(["C"]))


def wrapper(folder: Path) -> Path:
    """A Python that finds the modules of ``folder`` first."""
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={folder}:$PYTHONPATH exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return script


def test_the_child_dies_with_its_parent():
    code = f"""
from molstream.pipeline.stages.described import records
from molstream.pipeline.sandbox.parent import Sandbox
from molstream.pipeline.config import SandboxConfig
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.fields import RawMolecule
with Sandbox(SandboxConfig(), FeaturizeConfig()) as sandbox:
    sandbox.describe([RawMolecule("C", "smiles", "a", 0)])
    print(sandbox.child_pid, flush=True)
    (batch,), _ = sandbox.describe([RawMolecule({SLOW!r}, "smiles", "a", 0)])
    sandbox.embed(records(batch))
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.kill()
    for _ in range(50):
        if not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text(encoding="utf-8"):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def test_impossible_bounds_are_refused():
    with pytest.raises(ConfigError, match=r"deadline_s=0: expected a number above 0"):
        SandboxConfig(deadline_s=0)
    with pytest.raises(ConfigError, match=r"memory_mib=100: expected at least 1024"):
        SandboxConfig(memory_mib=100)


def test_real_embedding_breakers_are_all_answered(shared_data):
    lines = (shared_data / "dev" / "embed_breakers_dev.tsv").read_text().splitlines()[1:]
    molecules = raws([line.split("\t")[1] for line in lines[:4]])
    with Sandbox(SandboxConfig(deadline_s=0.3), FeaturizeConfig()) as sandbox:
        samples, rejections = through(sandbox, molecules)
    answered = [sample.row for sample in samples] + [rejection.row for rejection in rejections]
    assert sorted(answered) == list(range(4))
