"""SMILES, mol block or geometry -> parent molecule in canonical form: the same for every spelling and atom order.

Everything is a function of canonical SMILES *text*: the input is written as canonical SMILES, parsed, standardized and
written again until the text repeats. The stored SMILES is thus its own standardized form, and the atom order of the
record is the order of its SMILES. Tautomers are unified on demand only (the InChIKey, which is the key, is nearly
tautomer-free).
"""

import functools
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields

from rdkit import Chem
from rdkit.Chem import BondStereo, rdMolDescriptors
from rdkit.Chem.MolStandardize import rdMolStandardize

from molstream.errors import MoleculeError
from molstream.preprocessing.agreement import IS_NONMETAL, atoms_at
from molstream.preprocessing.config import StandardizeConfig
from molstream.preprocessing.fields import Format
from molstream.preprocessing.geometry import GivenConformers
from molstream.preprocessing.hydrogens import reread
from molstream.preprocessing.laying import laid
from molstream.preprocessing.parse import Parsed, parse
from molstream.preprocessing.polyhedra import settle_polyhedra
from molstream.preprocessing.rdkit_errors import rdkit_errors
from molstream.preprocessing.resonance import canonical_resonance

HYPERVALENT_HALOGENS = """\
Iodyl group	[#17,#35,#53;+2;$(*-[#6]):1]-[#7,#8;-1:2]>>[*+1:1]=[*+0:2]
Iodosyl group, iminoiodinane	[#17,#35,#53;+1;$(*-[#6]):1]-[#6,#7,#8;-1:2]>>[*+0:1]=[*+0:2]
"""
"""Transformations of a halogen and a neighbour with opposite charges into a double bond, beyond RDKit's own."""

NONMETALS = frozenset(IS_NONMETAL.nonzero()[0].tolist())

MAX_TAUTOMERS = 1000
"""Most tautomers, and most transformations, that are tried for a molecule (RDKit's own limits)."""


@dataclass(frozen=True)
class StandardizedMolecule:
    """A parent molecule, its atoms in the order of its canonical SMILES."""

    smiles: str
    """Canonical isomeric SMILES."""
    mol: Chem.Mol
    """Hydrogens implicit, but for those that RDKit keeps as atoms, which are stored: isotopes, ions, H2, bridges."""
    given: GivenConformers | None
    """The input's own conformers of ``mol``'s n atoms (m = n), followed by those of its hydrogens in the order of
    ``Chem.AddHs`` where the input has every one of them. None without a 3D geometry."""
    changes: tuple[str, ...]
    """The fields of :class:`StandardizeConfig` whose step changed the molecule, in their order."""
    left_out: tuple[str, ...]
    """Why conformers of the input are not in ``given``; see ``Parsed.left_out``."""
    origins: tuple[int, ...] | None
    """Which atom of the text every atom of ``mol`` is; known where ``numbered``, or with a geometry."""

    @functools.cached_property
    def key(self) -> str:
        """Full InChIKey; ``SMILES-`` and 27 hex digits of the SMILES' SHA-256 where InChI fails.

        InChI takes as long as a quarter of standardizing, so that it runs only if the key is wanted.

        Raises:
            MoleculeError: an exception of RDKit; the stage is ``standardize``.
        """
        with rdkit_errors("standardize"):
            return _key(self.mol, self.smiles)


def standardize(
    text: str,
    format: Format,
    config: StandardizeConfig,
    max_atoms: int,
    max_smiles_length: int,
    numbered: bool = False,
) -> StandardizedMolecule:
    """The parent molecule of one input text.

    ``max_atoms`` limits the heavy atoms of the parent, ``max_smiles_length`` the input (see ``parse``). ``numbered``
    keeps track of the atoms of the text.

    Raises:
        MoleculeError: the text is no molecule that can be stored; stage is ``parse`` or ``standardize``.
    """
    parsed = parse(text, format, max_smiles_length, numbered)
    with rdkit_errors("standardize"):
        smiles, mol, changes = _fixed_point(parsed.parent, config)
        heavy_atoms = mol.GetNumHeavyAtoms()
        if heavy_atoms > max_atoms:
            raise MoleculeError(
                "standardize", "too_many_atoms", f"{heavy_atoms} heavy atoms; the limit max_atoms is {max_atoms}"
            )
        if "*" in smiles:
            raise MoleculeError(
                "standardize", "dummy_atom", f"attachment point, R group, atom list or wildcard in {smiles}"
            )
        given, origins = None, None
        if parsed.given is not None and mol.GetNumConformers():
            placed = laid(mol)
            given = _given(placed, parsed)
            origins = tuple(parsed.order[k] for k in atoms_at(placed, parsed.given))
        elif mol.GetNumConformers():
            origins = tuple(mol.GetConformer().GetPositions()[:, 0].round().astype(int).tolist())
        mol.RemoveAllConformers()
        return StandardizedMolecule(smiles, mol, given, changes, parsed.left_out, origins)


def _fixed_point(mol: Chem.Mol, config: StandardizeConfig) -> tuple[str, Chem.Mol, tuple[str, ...]]:
    """Canonical SMILES of the standardized molecule, the molecule parsed from it, and the steps that changed it.

    Standardizing is repeated until its canonical SMILES comes back: nearly always at once. Where RDKit's rules chase
    each other in a circle the alphabetically first SMILES of the circle is taken, so that the result is still unique.
    """
    forms: dict[str, Chem.Mol] = {}
    changes: set[str] = set()
    steps: list[tuple[str, Chem.Mol]] = []
    smiles = settle_polyhedra(mol, Chem.MolToSmiles(mol))
    while smiles not in forms:
        before = smiles
        forms[before] = reread(mol, before)
        if steps:
            _require_conserved("reading its SMILES", mol, forms[before])
        steps = list(_steps(forms[before], config))
        mol = forms[before]
        for name, result in steps:
            _require_conserved(name, mol, result)
            mol = result
        if steps:
            Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
        smiles = settle_polyhedra(mol, Chem.MolToSmiles(mol))
        if smiles != before:
            changes.update(_changing(before, steps, smiles))
    path = list(forms)
    smiles = min(path[path.index(smiles) :])
    return smiles, forms[smiles], tuple(step.name for step in fields(config) if step.name in changes)


def _require_conserved(step: str, before: Chem.Mol, after: Chem.Mol) -> None:
    """Check that a step has changed neither formula nor charge, but for what it is there to change.

    Raises:
        MoleculeError: it has, reason ``not_conserved``. ``neutralise`` may add and take protons, ``disconnect_metals``
            gives metals their usual charges, and ``largest_fragment`` drops atoms.
    """
    if step in ("disconnect_metals", "largest_fragment"):
        return
    formulas = [rdMolDescriptors.CalcMolFormula(mol) for mol in (before, after)]
    if formulas[0] != formulas[1] and (step != "neutralise" or _without_protons(before) != _without_protons(after)):
        raise MoleculeError("standardize", "not_conserved", f"{step} makes {formulas[1]} of {formulas[0]}")


def _without_protons(mol: Chem.Mol) -> dict[str, int]:
    """Atoms by element, and the charge that is left without the protons of all hydrogens."""
    atoms = re.findall(r"([A-Z][a-z]?)(\d*)", rdMolDescriptors.CalcMolFormula(mol))
    counts = {element: int(count or 1) for element, count in atoms}
    return counts | {"charge": Chem.GetFormalCharge(mol) - counts.pop("H", 0)}


@dataclass(frozen=True)
class _Tools:
    """RDKit's standardizers; building their rule tables costs as much as using them once."""

    metals: rdMolStandardize.MetalDisconnector
    normalizer: rdMolStandardize.Normalizer
    halogens: rdMolStandardize.Normalizer
    reionizer: rdMolStandardize.Reionizer
    fragments: rdMolStandardize.LargestFragmentChooser
    uncharger: rdMolStandardize.Uncharger
    tautomers: rdMolStandardize.TautomerEnumerator
    charged: Chem.Mol
    """Query for what reionizer and uncharger act on: charges, and atoms without neighbours that should have one."""
    unusual: Chem.Mol
    """Query for what any of the steps before the choice of a tautomer needs: all that ``charged`` finds, elements that
    are no everyday ones (all metals), valences that are no everyday ones (N with five bonds, S with four)."""


@functools.cache
def _tools() -> _Tools:
    parameters = rdMolStandardize.CleanupParameters()
    parameters.maxTautomers = parameters.maxTransforms = MAX_TAUTOMERS
    charged = "!+0,X0"
    elements = "!#1&!#6&!#7&!#8&!#9&!#16&!#17&!#35&!#53"
    valences = "#1&!v1,#6&!v4,#7&!v3,#8&!v2,#16&!v2&!v6,#9&!v1,#17&!v1,#35&!v1,#53&!v1"
    return _Tools(
        rdMolStandardize.MetalDisconnector(),
        rdMolStandardize.Normalizer(),
        rdMolStandardize.NormalizerFromData(HYPERVALENT_HALOGENS, parameters),
        rdMolStandardize.Reionizer(),
        rdMolStandardize.LargestFragmentChooser(),
        rdMolStandardize.Uncharger(),
        rdMolStandardize.TautomerEnumerator(parameters),
        Chem.MolFromSmarts(f"[{charged}]"),
        Chem.MolFromSmarts(f"[{charged},{elements},{valences}]"),
    )


def _steps(mol: Chem.Mol, config: StandardizeConfig) -> Iterator[tuple[str, Chem.Mol]]:
    """One pass of RDKit's standardization: every step that may change the molecule, with its result.

    The steps are those of ``Cleanup``, ``FragmentParent`` and ``ChargeParent``. Two molecules of three give most steps
    nothing to act on, and to see that is twenty times cheaper than to try. ``mol`` itself is never changed.
    """
    tools = _tools()
    unusual = mol.HasSubstructMatch(tools.unusual)
    if config.disconnect_metals and unusual:
        mol = tools.metals.Disconnect(_beside_metals(mol))
        yield "disconnect_metals", mol
    if config.normalize and (normal := _normalized(mol, unusual)) is not mol:
        mol = normal
        yield "normalize", mol
    if config.largest_fragment and len(Chem.GetMolFrags(mol)) > 1:
        mol = tools.fragments.choose(mol)
        yield "largest_fragment", mol
    if config.neutralise and unusual and mol.HasSubstructMatch(tools.charged):
        neutral = tools.uncharger.uncharge(mol)
        # Hexafluorophosphate has no neutral form, but RDKit makes one with seven bonds at phosphorus.
        if Chem.SanitizeMol(neutral, catchErrors=True) == Chem.SANITIZE_NONE:
            mol = neutral
            yield "neutralise", mol
    if config.canonical_tautomer:
        mol = tools.tautomers.Canonicalize(mol)
        yield "canonical_tautomer", mol


def _beside_metals(mol: Chem.Mol) -> Chem.Mol:
    """A copy of the molecule with every E or Z told by neighbours that are no metals.

    RDKit loses the neighbours that tell it when their bond is broken, and keeps a flag that says nothing. Where a metal
    is the only neighbour, as in imines bound by their nitrogen, nothing is left to tell.
    """
    changed = Chem.Mol(mol)
    if all(_is_nonmetal(mol.GetAtomWithIdx(index)) for index in range(mol.GetNumAtoms())):
        return changed
    for bond in changed.GetBonds():
        told_by, ends = list(bond.GetStereoAtoms()), (bond.GetBeginAtom(), bond.GetEndAtom())
        metals = [side for side, index in enumerate(told_by) if not _is_nonmetal(changed.GetAtomWithIdx(index))]
        if not metals:
            continue
        is_cis = bond.GetStereo() in (BondStereo.STEREOZ, BondStereo.STEREOCIS)
        for side in metals:
            beside = {ends[1 - side].GetIdx(), told_by[side]}
            others = [each.GetIdx() for each in ends[side].GetNeighbors() if each.GetIdx() not in beside]
            told_by[side] = next((k for k in others if _is_nonmetal(changed.GetAtomWithIdx(k))), -1)
            is_cis = not is_cis
        bond.SetStereo(BondStereo.STEREONONE)
        if -1 not in told_by:
            bond.SetStereoAtoms(*told_by)
            bond.SetStereo(BondStereo.STEREOCIS if is_cis else BondStereo.STEREOTRANS)
    return changed


def _is_nonmetal(atom: Chem.Atom) -> bool:
    return atom.GetAtomicNum() in NONMETALS


def _normalized(mol: Chem.Mol, unusual: bool) -> Chem.Mol:
    """The molecule in one of its drawings; ``mol`` itself where there is one only."""
    tools = _tools()
    if unusual:
        # Not normalizeInPlace, nor Cleanup: they write impossible aromatic rings for one ZINC molecule in a thousand.
        mol = tools.halogens.normalize(tools.normalizer.normalize(mol))
        Chem.FastFindRings(mol)
    mol = canonical_resonance(mol)
    if unusual and mol.HasSubstructMatch(tools.charged):
        tools.reionizer.reionizeInPlace(mol)
    return mol


def _changing(before: str, steps: list[tuple[str, Chem.Mol]], after: str) -> Iterator[str]:
    """Names of the steps that changed a molecule, given its canonical SMILES before the first and after the last."""
    for name, mol in steps[:-1]:
        between = Chem.MolToSmiles(mol)
        if between != before:
            yield name
        before = between
    if steps and before != after:
        yield steps[-1][0]


def _key(mol: Chem.Mol, smiles: str) -> str:
    """Full InChIKey, or a hash of the canonical SMILES where InChI gives none (unknown bonds, above 1023 atoms)."""
    return Chem.MolToInchiKey(mol) or f"SMILES-{hashlib.sha256(smiles.encode()).hexdigest()[:27]}"


def _given(mol: Chem.Mol, source: Parsed) -> GivenConformers:
    """The input's conformers of a parent molecule; see ``StandardizedMolecule.given``."""
    assert source.given is not None
    stored = atoms_at(mol, source.given)
    hydrogens: list[int] = []
    complete = True
    for atom, origin in zip(mol.GetAtoms(), stored, strict=True):
        neighbours = source.mol.GetAtomWithIdx(origin).GetNeighbors()
        attached = sorted({a.GetIdx() for a in neighbours if a.GetAtomicNum() == 1} - set(stored))
        complete &= len(attached) == atom.GetTotalNumHs()
        hydrogens += attached
    return source.given.of_atoms(stored + hydrogens if complete else stored)
