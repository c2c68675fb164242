"""What does not name exactly one molecule is rejected with a reason; nothing is read as another molecule."""

import pytest

from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection
from tests.support.diverse import FLAT


def read(text: str, format: str = "smiles") -> str:
    """The stored SMILES, or the reason of the rejection in brackets."""
    result = featurize(RawMolecule(text, format, "test", 0), FLAT)
    if isinstance(result, Rejection):
        assert result.stage == "parse"
        assert result.detail
        return f"<{result.reason}>"
    assert isinstance(result, MoleculeSample)
    return result.smiles


def block(atoms: str, bonds: list[tuple[int, int, int]], *properties: str) -> str:
    """A V2000 mol block of atoms by element."""
    lines = ["", "  test    2D", "", f"{len(atoms):3}{len(bonds):3}  0  0  0  0  0  0  0  0999 V2000"]
    lines += [f"{k:10.4f}{k % 2:10.4f}{0:10.4f} {e}   0  0  0  0  0  0  0  0  0  0  0  0" for k, e in enumerate(atoms)]
    lines += [f"{i:3}{j:3}{kind:3}  0" for i, j, kind in bonds]
    return "\n".join([*lines, *properties, "M  END", ""])


@pytest.mark.parametrize(
    "text", ["\u0421CO", "CC\u0421", "\uff23CO", "CCé", "CC\u00a0", "\u00a0CC", "\ufeffCC\u200b", "C\x00C", "C\u2212C"]
)
def test_a_character_that_no_smiles_has_is_refused_wherever_it_stands(text):
    assert read(text) == "<unparsable>"


@pytest.mark.parametrize("text", ["N#N=O", "[O-]N#N=O"])
def test_a_group_that_rdkit_makes_another_molecule_of_is_refused(text):
    assert read(text) in ("<not_conserved>", "<unsanitizable>")


@pytest.mark.parametrize(
    ("text", "smiles"),
    [
        ("CN(=O)=O", "C[N+](=O)[O-]"),
        ("CN=N#N", "CN=[N+]=[N-]"),
        ("CC#N=O", "CC#[N+][O-]"),
        ("OCl(=O)(=O)=O", "[O-][Cl+3]([O-])([O-])O"),
        ("C[N+](C)(C)C", "C[N+](C)(C)C"),
    ],
)
def test_a_group_that_rdkit_writes_with_charges_is_read(text, smiles):
    assert read(text) == smiles


@pytest.mark.parametrize("text", ["CC~O", "C:C", "CC(:O):O"])
def test_a_bond_of_unknown_order_is_refused(text):
    assert read(text) == "<query_bond>"


@pytest.mark.parametrize(
    "text",
    [
        "CC |$;CO2Et$|",
        "CC |$;_AP1$|",
        "CC |$R1;$|",
        "CCC |Sg:n:1:n:ht|",
        "CO |m:0:1.2|",
        "CC |$;Pol$|",
    ],
)
def test_an_extension_that_adds_to_the_atoms_is_refused(text):
    assert read(text) == "<indefinite_structure>"


@pytest.mark.parametrize(
    ("text", "smiles"),
    [
        ("CC |$;CH3$|", "CC"),
        ("CO |SgD:1:name:val::::|", "CO"),
        ("CC(=O)O |$_AV:;x;;$|", "CC(=O)O"),
        ("CC |^1:0|", "[CH2]C"),
    ],
)
def test_an_extension_that_only_comments_is_taken(text, smiles):
    assert read(text) == smiles


RING = [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 1)]
CHAIN = [(1, 2, 1), (2, 3, 1)]


@pytest.mark.parametrize("kind", [5, 6, 7, 8])
def test_query_bonds_of_a_mol_block_are_refused(kind):
    assert read(block("C" * 6, [(i, j, kind) for i, j in RING]), "molblock") == "<query_bond>"
    assert read(block("CCO", [(1, 2, 1), (2, 3, kind)]), "molblock") == "<query_bond>"


def test_aromatic_bonds_are_read_in_rings_and_refused_elsewhere():
    assert read(block("C" * 6, [(i, j, 4) for i, j in RING]), "molblock") == "c1ccccc1"
    acetate = block("CCOO", [(1, 2, 1), (2, 3, 4), (2, 4, 4)], "M  CHG  1   4  -1")
    assert read(acetate, "molblock") == "<query_bond>"


@pytest.mark.parametrize(
    "lines",
    [
        ("A    3", "CO2Et"),
        ("M  APO  1   3   1",),
        ("M  STY  1   1 SRU", "M  SAL   1  2   2   3", "M  SMT   1 n"),
        ("M  LIN  1   2   4   1   3",),
        ("M  STY  1   1 COP", "M  SAL   1  2   2   3"),
        ("M  STY  1   1 MON", "M  SAL   1  2   2   3"),
    ],
)
def test_lines_that_add_to_the_atoms_of_a_mol_block_are_refused(lines):
    assert read(block("CCC", CHAIN, *lines), "molblock") == "<indefinite_structure>"


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("A    3", "CH3"),
        ("A    1", "H3C"),
        ("M  STY  1   1 DAT", "M  SAL   1  1   2", "M  SDT   1 note", "M  SED   1 text"),
        ("M  STY  1   1 SUP", "M  SAL   1  2   2   3", "M  SMT   1 Et"),
    ],
)
def test_lines_that_only_comment_on_a_mol_block_are_taken(lines):
    assert read(block("CCC", CHAIN, *lines), "molblock") == "CCC"


def test_a_mol_block_that_is_not_utf8_in_rdkits_message_is_a_rejection():
    assert read(block("CCC", CHAIN).replace("  3  2", "  3\u00a02"), "molblock") == "<unparsable>"
