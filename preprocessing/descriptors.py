"""RDKit's 2D descriptors of a molecule, in a fixed order.

Of the 217 of ``rdkit.Chem.Descriptors.descList``, 200 are computed. Left out are the slow ones, which together take
longer than all others: qed, BertzCT, SPS, BCUT2D and the extremes of the EState indices. So are Ipc and AvgIpc, whose
first digits depend on the order of the atoms of some molecules; Ipc exceeds float32 for large ones.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import rdkit
from rdkit import Chem
from rdkit.Chem import rdPartialCharges

from molstream.errors import ConfigError
from molstream.preprocessing.config import DescriptorSet

_V1 = """
MolWt HeavyAtomMolWt ExactMolWt HeavyAtomCount NumHeteroatoms NumValenceElectrons NumRadicalElectrons
MaxPartialCharge MinPartialCharge MaxAbsPartialCharge MinAbsPartialCharge
FpDensityMorgan1 FpDensityMorgan2 FpDensityMorgan3
BalabanJ Chi0 Chi0n Chi0v Chi1 Chi1n Chi1v Chi2n Chi2v Chi3n Chi3v Chi4n Chi4v HallKierAlpha Kappa1 Kappa2 Kappa3 Phi
MolLogP MolMR TPSA LabuteASA
PEOE_VSA1 PEOE_VSA2 PEOE_VSA3 PEOE_VSA4 PEOE_VSA5 PEOE_VSA6 PEOE_VSA7 PEOE_VSA8 PEOE_VSA9 PEOE_VSA10 PEOE_VSA11
PEOE_VSA12 PEOE_VSA13 PEOE_VSA14
SMR_VSA1 SMR_VSA2 SMR_VSA3 SMR_VSA4 SMR_VSA5 SMR_VSA6 SMR_VSA7 SMR_VSA8 SMR_VSA9 SMR_VSA10
SlogP_VSA1 SlogP_VSA2 SlogP_VSA3 SlogP_VSA4 SlogP_VSA5 SlogP_VSA6 SlogP_VSA7 SlogP_VSA8 SlogP_VSA9 SlogP_VSA10
SlogP_VSA11 SlogP_VSA12
EState_VSA1 EState_VSA2 EState_VSA3 EState_VSA4 EState_VSA5 EState_VSA6 EState_VSA7 EState_VSA8 EState_VSA9
EState_VSA10 EState_VSA11
VSA_EState1 VSA_EState2 VSA_EState3 VSA_EState4 VSA_EState5 VSA_EState6 VSA_EState7 VSA_EState8 VSA_EState9 VSA_EState10
FractionCSP3 NHOHCount NOCount NumHAcceptors NumHDonors NumRotatableBonds NumAmideBonds
NumAtomStereoCenters NumUnspecifiedAtomStereoCenters NumBridgeheadAtoms NumSpiroAtoms
RingCount NumAliphaticCarbocycles NumAliphaticHeterocycles NumAliphaticRings NumAromaticCarbocycles
NumAromaticHeterocycles NumAromaticRings NumHeterocycles NumSaturatedCarbocycles NumSaturatedHeterocycles
NumSaturatedRings
fr_Al_COO fr_Al_OH fr_Al_OH_noTert fr_ArN fr_Ar_COO fr_Ar_N fr_Ar_NH fr_Ar_OH fr_COO fr_COO2 fr_C_O fr_C_O_noCOO fr_C_S
fr_HOCCN fr_Imine fr_NH0 fr_NH1 fr_NH2 fr_N_O fr_Ndealkylation1 fr_Ndealkylation2 fr_Nhpyrrole fr_SH fr_aldehyde
fr_alkyl_carbamate fr_alkyl_halide fr_allylic_oxid fr_amide fr_amidine fr_aniline fr_aryl_methyl fr_azide fr_azo
fr_barbitur fr_benzene fr_benzodiazepine fr_bicyclic fr_diazo fr_dihydropyridine fr_epoxide fr_ester fr_ether fr_furan
fr_guanido fr_halogen fr_hdrzine fr_hdrzone fr_imidazole fr_imide fr_isocyan fr_isothiocyan fr_ketone fr_ketone_Topliss
fr_lactam fr_lactone fr_methoxy fr_morpholine fr_nitrile fr_nitro fr_nitro_arom fr_nitro_arom_nonortho fr_nitroso
fr_oxazole fr_oxime fr_para_hydroxylation fr_phenol fr_phenol_noOrthoHbond fr_phos_acid fr_phos_ester fr_piperdine
fr_piperzine fr_priamide fr_prisulfonamd fr_pyridine fr_quatN fr_sulfide fr_sulfonamd fr_sulfone fr_term_acetylene
fr_tetrazole fr_thiazole fr_thiocyan fr_thiophene fr_unbrch_alkane fr_urea
"""

DESCRIPTORS_V1: tuple[str, ...] = tuple(_V1.split())
"""Names of the k = 200 descriptors, in the order in which they are stored. The list never changes: another one gets
another name."""

_OF_CHARGES = ("MaxPartialCharge", "MinPartialCharge", "MaxAbsPartialCharge", "MinAbsPartialCharge", "PEOE_VSA")
"""How the names of the descriptors begin that are computed from Gasteiger's charges."""


def descriptor_names(choice: DescriptorSet) -> tuple[str, ...]:
    """Names of the descriptors of a choice, which this RDKit can compute.

    Raises:
        ConfigError: the installed RDKit does not have some of them.
    """
    if choice == "none":
        return ()
    _functions()
    return DESCRIPTORS_V1


def descriptors(mol: Chem.Mol) -> np.ndarray:
    """The descriptors of :data:`DESCRIPTORS_V1`, float32 [k], in RDKit's units.

    NaN where RDKit raises an error, gives an infinite value or one above float32, or has no charges for an element (see
    ``_OF_CHARGES``). Other atom orders of a molecule may give other rounding errors.

    Args:
        mol: a sanitized molecule with implicit hydrogens; not changed.

    Raises:
        ConfigError: the installed RDKit does not have some of the descriptors.
    """
    # A copy, since RDKit keeps charges, indices and fingerprints on the molecule.
    mol = Chem.Mol(mol)
    charges = _has_charges(mol)
    values = [
        _value(function, mol) if charges or not name.startswith(_OF_CHARGES) else math.nan
        for name, function in _functions()
    ]
    with np.errstate(over="ignore"):
        found = np.array(values, np.float64).astype(np.float32)
    found[~np.isfinite(found)] = np.nan
    return found


@functools.cache
def _functions() -> tuple[tuple[str, Callable[[Chem.Mol], Any]], ...]:
    """Names and functions of the descriptors; importing them takes 60 ms, which not every process needs."""
    from rdkit.Chem import Descriptors

    known = dict(Descriptors.descList)
    if missing := [name for name in DESCRIPTORS_V1 if name not in known]:
        raise ConfigError(
            f"RDKit {rdkit.__version__} has no descriptors {', '.join(missing)}: expected all of "
            "DESCRIPTORS_V1. Install the RDKit of infra/constraints.txt, or set featurize.descriptors=none."
        )
    return tuple((name, known[name]) for name in DESCRIPTORS_V1)


def _has_charges(mol: Chem.Mol) -> bool:
    """Whether every atom has a finite Gasteiger charge.

    Where one has none (metals, Se, As), it spreads to all atoms within 12 bonds, and RDKit's extremes of the charges
    depend on which atom comes first.
    """
    rdPartialCharges.ComputeGasteigerCharges(mol)
    return all(math.isfinite(atom.GetDoubleProp("_GasteigerCharge")) for atom in mol.GetAtoms())


def _value(function: Callable[[Chem.Mol], Any], mol: Chem.Mol) -> float:
    try:
        return float(function(mol))
    except (ArithmeticError, LookupError, RuntimeError, ValueError):
        return math.nan
