"""Every Kekule form of a molecule gives one SMILES, whatever the order of its atoms."""

import pytest
from rdkit import Chem, rdBase

from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample
from molstream.preprocessing.kekule import canonical_kekule, has_choice
from tests.support.diverse import FLAT

FORMS = {
    "biphenylene": ("C1=CC=C2C(=C1)C1=CC=CC=C21", "C1=CC2=C3C=CC=CC3=C2C=C1"),
    "dimethylcyclooctatetraene": ("CC1=C(C)C=CC=CC=C1", "CC1=CC=CC=CC=C1C"),
    "dimethylcyclobutadiene": ("CC1=C(C)C=C1", "CC1=CC=C1C"),
    "methylpentalene": ("CC1=CC2=CC=CC2=C1", "CC1=CC2=CC=CC2=C1"),
    "methoxyazocine": ("COC1=NC=CC=CC=C1", "COC1=CC=CC=CC=N1"),
    "heptalene": ("CC1=C2C=CC=CC=C2C=CC=C1", "CC1=CC=CC=C2C=CC=CC=C12"),
    "thiepine with a benzene": ("CC1=CC2=CC=CC=C2C=C1", "Cc1ccc2ccccc2c1"),
    "azide": ("CN=[N+]=[N-]", "C[N-][N+]#N"),
    "diazo compound": ("CC=[N+]=[N-]", "C[CH-][N+]#N"),
    "phosphine oxide": ("CP(C)(C)=O", "C[P+](C)(C)[O-]"),
    "phosphine sulfide": ("CP(C)(C)=S", "C[P+](C)(C)[S-]"),
    "phosphonium ylide": ("C=P(C)(C)C", "[CH2-][P+](C)(C)C"),
    "phosphinimine": ("CN=P(C)(C)C", "C[N-][P+](C)(C)C"),
    "chiral phosphine oxide": ("O=[P@](C)(CC)c1ccccc1", "[O-][P@+](C)(CC)c1ccccc1"),
    "phosphazenes": (
        "ClP1(Cl)=NP(Cl)(Cl)=NP(Cl)(Cl)=N1",
        "Cl[P+]1(Cl)[N-][P+](Cl)(Cl)[N-][P+](Cl)(Cl)[N-]1",
    ),
    "larger phosphazenes": (
        "CP1(C)=NP(C)(C)=NP(C)(C)=NP(C)(C)=N1",
        "C[P+]1(C)[N-][P+](C)(C)[N-][P+](C)(C)[N-][P+](C)(C)[N-]1",
    ),
    "iodosyl group": ("O=Ic1ccccc1", "[O-][I+]c1ccccc1"),
    "iodyl group": ("O=I(=O)c1ccccc1", "[O-][I+2]([O-])c1ccccc1"),
    "iminoiodinane": ("CN=Ic1ccccc1", "C[N-][I+]c1ccccc1"),
    "arsine oxide": ("C[As](C)(C)=O", "C[As+](C)(C)[O-]"),
    "selenoxide": ("C[Se](C)=O", "C[Se+](C)[O-]"),
    "sulfoxide": ("CS(C)=O", "C[S+](C)[O-]"),
    "sulfone": ("CS(C)(=O)=O", "C[S+2](C)([O-])[O-]"),
    "sulfone, half": ("CS(C)(=O)=O", "C[S+](C)(=O)[O-]"),
    "sulfoximine": ("CS(C)(=N)=O", "C[S+2](C)([NH-])[O-]"),
    "sulfilimine": ("CS(C)=NC", "C[S+](C)[N-]C"),
    "sulfonium ylide": ("C=S(C)C", "[CH2-][S+](C)C"),
    "sulfite": ("COS(=O)OC", "CO[S+]([O-])OC"),
    "sulfur dioxide": ("O=S=O", "[O-][S+]=O"),
    "nitro group": ("CN(=O)=O", "C[N+](=O)[O-]"),
}


def spellings(text: str) -> list[str]:
    with rdBase.BlockLogs():
        return [text, *Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(text), 5, randomSeed=3)]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_and_spelling_is_one_record(name):
    found = [featurize(spelling, FLAT) for form in FORMS[name] for spelling in spellings(form)]
    assert all(isinstance(sample, MoleculeSample) for sample in found)
    assert len({(sample.smiles, sample.key) for sample in found}) == 1, {sample.smiles for sample in found}
    again = featurize(found[0].smiles, FLAT)
    assert again.smiles == found[0].smiles


@pytest.mark.parametrize(
    "text", ["CC(O)=CC(C)=O", "C1=CC(=O)C=CC1=O", "c1ccc2ccccc2c1", "F/C=C/C(=O)/C=C\\Cl", "C1=CCC=CC1"]
)
def test_a_molecule_with_one_form_stays(text):
    mol = Chem.MolFromSmiles(text)
    assert not has_choice(mol) or canonical_kekule(mol) is mol


def test_a_double_bond_that_turns_loses_its_stereochemistry_and_the_others_keep_it():
    both = [r"N#Cc1ccc(/N=N/C2=C/C=C(C)\C=C/C=C\2)cc1", r"N#Cc1ccc(/N=N/C2=CC=C(C)C=CC=C2)cc1"]
    found = {featurize(text, FLAT).smiles for text in both}
    assert len(found) == 1
    assert "/N=N/" in found.pop()


def test_a_system_too_large_for_the_search_stays_as_it_is_drawn(monkeypatch):
    monkeypatch.setattr("molstream.preprocessing.kekule.MAX_STEPS", 2)
    mol = Chem.MolFromSmiles("CC1=C(C)C=CC=CC=C1")
    assert canonical_kekule(mol) is mol
