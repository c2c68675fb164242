"""What a stored molecule depends on besides its input: the parent molecule, its atoms, its conformers."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from molstream.config import PositiveInt, configuration
from molstream.errors import ConfigError

MAX_SMILES_LENGTH = 5000
"""Highest ``max_smiles_length``: RDKit's canonicalization has crashed on a chain of 20000 atoms."""
MAX_CONFORMERS = 1000
"""Most conformers that are made of a molecule: an export of a stranger may ask for any number."""


ForceField = Literal["MMFF94s", "MMFF94", "UFF", "none"]
DescriptorSet = Literal["none", "rdkit2d"]
"""Which descriptors of a molecule are stored: none, or those of ``DESCRIPTORS_V1``."""


@configuration
class StandardizeConfig:
    """Which changes make the parent molecule, in the order in which they are made."""

    disconnect_metals: bool = True
    """Break covalent bonds between metals and N, O, F or other non-metals."""
    normalize: bool = True
    """Write sulfoxides, conjugated ions, separated charges, azides, Kekule forms and the like in one way; ionise the
    strongest acid first."""
    largest_fragment: bool = True
    """Keep the largest fragment only (drops counter-ions and solvent)."""
    neutralise: bool = True
    """Add or remove protons until no charge is left that can go."""
    canonical_tautomer: bool = False
    """Take RDKit's canonical tautomer; costs 2 to 15 ms per molecule."""


@configuration
class ConformerConfig:
    """How the positions of a molecule are made."""

    num_conformers: Annotated[int, Field(ge=0, le=MAX_CONFORMERS)] = 1
    """Conformers that are made per molecule; 0 for none."""
    given: Literal["keep", "replace", "both"] = "keep"
    """The input's own 3D geometry, where it covers every stored atom: keep (it is stored as it is, and nothing is
    embedded), replace (it is ignored) or both (the given conformers first, then num_conformers new ones)."""
    max_iterations: PositiveInt = 30
    """Attempts of ETKDG per conformer, from distance geometry."""
    random_coordinates_max_iterations: NonNegativeInt = 10
    """Attempts per conformer of a second pass from random coordinates, where the first gave none; 0 for no pass."""
    timeout_s: NonNegativeInt = 60
    """Wall-clock limit of a pass in seconds, 0 for none. A backstop only: what it cuts off is not reproducible."""
    force_field: ForceField = "MMFF94s"
    """Relaxation of embedded conformers. A molecule without parameters is not relaxed."""
    force_field_iterations: PositiveInt = 1000
    """Most steps of the relaxation (at 200, more than half of the drug-like molecules are not converged)."""
    rmsd_threshold: NonNegativeFloat = 0.0
    """Angstrom: of new conformers closer than this to one of lower energy, only that one is kept; 0 keeps all. The
    RMSD is over heavy atoms, after alignment and relaxation, equivalent atoms exchanged."""
    require_conformer: bool = False
    """Reject a molecule that cannot be embedded, instead of storing it without positions."""


@configuration
class FeaturizeConfig:
    """Everything that a stored molecule depends on besides its input."""

    hydrogens: Literal["heavy", "all"] = "heavy"
    """Which atoms are stored: heavy (as in the papers; hydrogens still take part in embedding) or all."""
    max_atoms: PositiveInt = 256
    """Most heavy atoms of a molecule, after standardizing; at most ``max_smiles_length``."""
    max_smiles_length: Annotated[int, Field(ge=1, le=MAX_SMILES_LENGTH)] = 2000
    """Most characters of an input SMILES, most atoms of an input mol block; checked before any chemistry."""
    standardize: StandardizeConfig = StandardizeConfig()
    """Parent molecule."""
    conformers: ConformerConfig = ConformerConfig()
    """Positions."""
    descriptors: DescriptorSet = "rdkit2d"
    """Numbers that are stored of every molecule: rdkit2d (200 of RDKit's 2D descriptors; 3 ms per molecule) or none."""

    def __post_init__(self) -> None:
        if self.max_atoms > self.max_smiles_length:
            raise ConfigError(
                f"featurize.max_atoms={self.max_atoms}: expected at most max_smiles_length, which is "
                f"{self.max_smiles_length}."
            )
