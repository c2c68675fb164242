"""Every resonance form, Kekule form and drawing with separated charges gives one SMILES, whatever the atom order."""

import pytest
from rdkit import Chem, rdBase

from molstream.preprocessing.resonance import canonical_resonance
from tests.support.diverse import FLAT, sample

FORMS = {
    "biphenylene": ("C1=CC=C2C(=C1)C1=CC=CC=C21", "C1=CC2=C3C=CC=CC3=C2C=C1"),
    "dimethylcyclooctatetraene": ("CC1=C(C)C=CC=CC=C1", "CC1=CC=CC=CC=C1C"),
    "dimethylcyclobutadiene": ("CC1=C(C)C=C1", "CC1=CC=C1C"),
    "methylpentalene": ("CC1=CC2=CC=CC2=C1", "CC1=CC2=CC=CC2=C1"),
    "methoxyazocine": ("COC1=NC=CC=CC=C1", "COC1=CC=CC=CC=N1"),
    "methylheptalene": ("CC1=C2C=CC=CC=C2C=CC=C1", "CC1=CC=CC=C2C=CC=CC=C12"),
    "indacene": ("C1=CC2=CC=C3C=CC=C3C2=C1", "C1=CC2=C3C=CC=C3C=CC2=C1"),
    "benzothiepine": ("CC1=CC2=CC=CC=C2C=C1", "Cc1ccc2ccccc2c1"),
    "benzothiadiazole": ("c1ccc2nsnc2c1", "C1=CC=C2N=S=NC2=C1"),
    "methoxyphosphazene": ("COP1(Cl)=NP(Cl)(Cl)=NP(Cl)(Cl)=N1", "COP1(Cl)=NP(Cl)(Cl)=NP(Cl)(Cl)=N1"),
    "azide": ("CN=[N+]=[N-]", "C[N-][N+]#N", "CN=N#N"),
    "hydrazoic acid": ("N=[N+]=[N-]", "[NH-][N+]#N"),
    "diazo compound": ("CC=[N+]=[N-]", "C[CH-][N+]#N"),
    "diazoketone": ("CC(=O)C=[N+]=[N-]", "CC([O-])=C[N+]#N", "CC(=O)[CH-][N+]#N"),
    "nitrile oxide": ("CC#[N+][O-]", "C[C-]=[N+]=O"),
    "phosphine oxide": ("CP(C)(C)=O", "C[P+](C)(C)[O-]"),
    "phosphine sulfide": ("CP(C)(C)=S", "C[P+](C)(C)[S-]"),
    "thiophosphate": ("COP(=S)(OC)OC", "CO[P+]([S-])(OC)OC"),
    "phosphonium ylide": ("C=P(C)(C)C", "[CH2-][P+](C)(C)C"),
    "acyl ylide": ("CC(=O)C=P(C)(C)C", "CC(=O)[CH-][P+](C)(C)C", "CC([O-])=C[P+](C)(C)C"),
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
    "telluroxide": ("C[Te](C)=O", "C[Te+](C)[O-]"),
    "sulfoxide": ("CS(C)=O", "C[S+](C)[O-]"),
    "chiral sulfoxide": ("C[S@](=O)CC", "C[S@+]([O-])CC"),
    "sulfone": ("CS(C)(=O)=O", "C[S+2](C)([O-])[O-]", "C[S+](C)(=O)[O-]"),
    "sulfoximine": ("CS(C)(=N)=O", "C[S+2](C)([NH-])[O-]", "C[S+](C)([NH-])=O", "C[S+](C)([O-])=N"),
    "sulfilimine": ("CS(C)=NC", "C[S+](C)[N-]C"),
    "sulfonium ylide": ("C=S(C)C", "[CH2-][S+](C)C"),
    "sulfoxonium ylide": ("C=S(C)(C)=O", "[CH2-][S+](C)(C)=O", "C=[S+](C)(C)[O-]"),
    "sulfite": ("COS(=O)OC", "CO[S+]([O-])OC"),
    "sulfur dioxide": ("O=S=O", "[O-][S+]=O"),
    "nitro group": ("CN(=O)=O", "C[N+](=O)[O-]"),
    "labelled nitro group": ("C[N+](=[18O])[O-]", "C[N+](=O)[18O-]"),
    "amine oxide": ("C[N+](C)(C)[O-]", "CN(C)(C)=O"),
    "pyridone": ("Cn1ccc(=O)cc1", "C[n+]1ccc([O-])cc1"),
    "vinylogous amide": ("CN(C)C=CC=O", "C[N+](C)=CC=C[O-]"),
    "borazine": ("CB1N(C)B(C)N(C)B(C)N1C", "C[B-]1=[N+](C)[B-](C)=[N+](C)[B-](C)=[N+]1C"),
    "amidinium": ("CN(C)C=[N+](C)CC", "C[N+](C)=CN(C)CC"),
    "protonated amidine": ("CNC(C)=[NH2+]", "C[NH+]=C(C)N"),
    "guanidinium": ("CN(C)C(=[N+](C)C)N(C)CC", "CN(C)C(N(C)C)=[N+](C)CC"),
    "vinamidinium": ("CN(C)C=CC=[N+](C)CC", "C[N+](C)=CC=CN(C)CC", r"C[N+](C)=C/C=C/N(C)CC"),
    "imidazolium": ("CCn1cc[n+](C)c1", "CC[n+]1ccn(C)c1", "CN1C=C[N+](CC)=C1"),
    "purinium": ("CC[n+]1cn(C)c2c1ncn2C", "CCn1c[n+](C)c2c1ncn2C"),
    "quinolizinium": ("C1=CC=[N+]2C=CC=CC2=C1", "C1=CC2=CC=CC=[N+]2C=C1"),
    "aminopyridinium": ("Nc1cc[n+](C)cc1", "[NH2+]=C1C=CN(C)C=C1"),
    "methylene blue, ethylated": (
        "CN(C)c1ccc2nc3ccc(=[N+](C)CC)cc-3sc2c1",
        "C[N+](C)=c1ccc2nc3ccc(N(C)CC)cc3sc-2c1",
        "CN(C)c1ccc2nc3ccc(N(C)CC)cc3[s+]c2c1",
    ),
    "thiacarbocyanine": (
        "CC[n+]1c(C=CC=C2N(C)c3ccccc3S2)sc2ccccc21",
        "CCN1C(=CC=Cc2sc3ccccc3[n+]2C)Sc2ccccc21",
    ),
    "triarylmethane dye": (
        "CN(C)c1ccc(cc1)C(c1ccccc1)=C1C=CC(=[N+](C)CC)C=C1",
        "C[N+](C)=C1C=CC(C=C1)=C(c1ccccc1)c1ccc(N(C)CC)cc1",
        "CN(C)c1ccc(cc1)[C+](c1ccccc1)c1ccc(N(C)CC)cc1",
    ),
    "flavylium": ("Oc1ccc2ccc(C)[o+]c2c1", "C1=C2C=CC(C)=[O+]C2=CC(O)=C1", "[OH+]=C1C=CC2=CC=C(C)OC2=C1"),
    "diketonate": ("[O-]C(C)=CC(=O)CC", "O=C(C)C=C([O-])CC", "CC(=O)[CH-]C(=O)CC"),
    "amide anion": ("CC([O-])=NC", "CC(=O)[N-]C"),
    "sulfonamide anion": ("CS(=O)(=O)[N-]C", "CS(=O)([O-])=NC"),
    "labelled carboxylate": ("C[N+](C)(C)CC(=O)[18O-]", "C[N+](C)(C)CC(=[18O])[O-]"),
    "nitronate": ("C[N+](C)(C)C[CH-][N+](=O)[O-]", "C[N+](C)(C)CC=[N+]([O-])[O-]"),
    "sydnone": ("Cc1c([O-])on[n+]1C", "CC1=[N+](C)[N-]OC1=O"),
    "allyl radical": ("C[CH]C=C", "CC=C[CH2]"),
}
"""Drawings of one molecule, by its name."""


def spellings(text: str) -> list[str]:
    with rdBase.BlockLogs():
        return [text, *Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(text), 5, randomSeed=3)]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_and_spelling_is_one_record(name):
    found = [sample(spelling, FLAT) for form in FORMS[name] for spelling in spellings(form)]
    assert len({(each.smiles, each.key) for each in found}) == 1, {each.smiles for each in found}
    assert sample(found[0].smiles, FLAT).smiles == found[0].smiles


@pytest.mark.parametrize(
    ("drawn", "written"),
    [
        ("CC([O-])=NC", "CNC(C)=O"),
        ("[O-]C1=NS(=O)(=O)c2ccccc21", "O=C1NS(=O)(=O)c2ccccc21"),
        ("Cn1cnc2c1c(=O)n(C)c([O-])n2", "Cn1c(=O)[nH]c2ncn(C)c2c1=O"),
        ("[O-]C1=CC=NC=C1", "O=c1cc[nH]cc1"),
        ("O=C1C=CC(=N[N-]c2ccccc2)C=C1", "Oc1ccc(N=Nc2ccccc2)cc1"),
        ("[N-]=C=CC#N", "N#CCC#N"),
    ],
)
def test_an_ion_is_written_so_that_its_parent_is_the_usual_tautomer(drawn, written):
    assert sample(drawn, FLAT).smiles == written


@pytest.mark.parametrize(
    "text",
    [
        "CC(O)=CC(C)=O",
        "C1=CC(=O)C=CC1=O",
        "c1ccc2ccccc2c1",
        "c1ccc2c(c1)Cc1ccccc1-2",
        "O=C1c2ccccc2-c2ccccc21",
        "F/C=C/C(=O)/C=C\\Cl",
        "C1=CCC=CC1",
        "C[N+](C)(C)CC(=O)[O-]",
        "O=[N+]([O-])c1ccccc1",
    ],
)
def test_a_molecule_with_one_form_stays(text):
    mol = Chem.MolFromSmiles(text)
    assert canonical_resonance(mol) is mol


def test_a_double_bond_that_turns_loses_its_stereochemistry_and_the_others_keep_it():
    both = [r"N#Cc1ccc(/N=N/C2=C/C=C(C)\C=C/C=C\2)cc1", r"N#Cc1ccc(/N=N/C2=CC=C(C)C=CC=C2)cc1"]
    found = {sample(text, FLAT).smiles for text in both}
    assert len(found) == 1
    assert "/N=N/" in found.pop()


def test_the_form_of_one_system_does_not_depend_on_how_another_one_is_drawn():
    """Here both nitrogen atoms of the imidazolium ion are as good, up to the order of the atoms."""
    texts = ["c1sc([S+](=O)(N2Cc3c([nH]c[nH+]3)C[C@@H]2C(=O)[O-])[O-])cc1"]
    texts += ["O=C([O-])[C@H]1Cc2[nH]c[nH+]c2CN1S(=O)(=O)c1cccs1"]
    assert len({sample(text, FLAT).smiles for text in texts}) == 1


@pytest.mark.parametrize("text", [r"C[N+](C)=C/C=C/N(C)C", r"CC(=O)/C=C(/C)[O-]"])
def test_a_bond_of_an_ion_that_is_single_in_an_equal_form_loses_its_stereochemistry(text):
    form = canonical_resonance(Chem.MolFromSmiles(text))
    assert "/" not in Chem.MolToSmiles(form)


@pytest.mark.parametrize("text", [r"C/C=C/C=C/C(=O)[O-]", r"C[N+]([O-])=C/C=C/C", r"C/C(C=[N+]=[N-])=C/Cl"])
def test_bonds_that_are_double_in_all_good_forms_keep_their_stereochemistry(text):
    mol = Chem.MolFromSmiles(text)
    assert Chem.MolToSmiles(canonical_resonance(mol)) == Chem.MolToSmiles(mol)
