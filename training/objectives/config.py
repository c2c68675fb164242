"""The configuration of the objectives: a run learns every one that is configured."""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from molstream.config import Decay, PositiveInt, configuration
from molstream.errors import ConfigError
from molstream.training.diffusion.config import SDEConfig
from molstream.training.models.config import Width
from molstream.training.objectives.mmsa.config import MMSAConfig

Probability = Annotated[float, Field(ge=0, le=1)]
SUM_TOLERANCE = 1e-6
"""Largest difference of the sum of probabilities from 1, which decimals need."""
Contrastive = Literal["ebm_nce", "ebm_nce_shift", "info_nce"]
CrossModal = Literal["ebm_nce", "ebm_nce_shift", "info_nce", "predictive"]
Level = Literal["atom", "molecule"]
Transform = Literal["rank", "winsorise"]
Noise = Literal["VE", "VP", "VE02", "VP02", "VE03", "VP03", "subVP"]


@configuration
class MoleculeSDEConfig:
    """MoleculeSDE in our form: contrast and two diffusions between 2D and 3D, corrected and scaled up."""

    weight: PositiveFloat = 1.0
    """Weight of the objective in the loss."""
    position_sde: SDEConfig = SDEConfig(kind="ve", minimum=0.01, maximum=10.0)
    """Noise of the positions; sigma in angstrom."""
    bond_sde: SDEConfig = SDEConfig(kind="vp", minimum=0.1, maximum=10.0)
    """Noise of bonds and formal charges, which are one-hot classes."""
    weighting: Literal["simple", "likelihood", "min_snr"] = "simple"
    """Weight of the noise levels; simple: all the same."""
    position_std: PositiveFloat = 1.5
    """Standard deviation of a coordinate about the molecule's centre, in angstrom: scales the network's input."""
    max_hops: PositiveInt = 4
    """A vector is read out from atoms up to so many bonds apart, and from those that no bonds join."""
    contrastive: CrossModal = "info_nce"
    """Contrastive loss; predictive has no negatives: each modality predicts the other's projection, which gets no
    gradient from it (SimSiam)."""
    contrastive_level: Level = "molecule"
    """What is compared: atoms, or molecules (pooled by the readout of either encoder)."""
    projection: PositiveInt | None = 256
    """Width of the projection heads, which the contrastive loss compares and an export drops; null compares the
    representations themselves, which then have one width."""
    temperature: PositiveFloat = 0.1
    """Divides the cosine similarities of the contrastive loss."""
    contrastive_coefficient: NonNegativeFloat = 1.0
    """Weight of the contrastive loss; 0 leaves it out."""
    position_coefficient: NonNegativeFloat = 1.0
    """Weight of the 2D-to-3D loss; 0 leaves it and its score network out."""
    bond_coefficient: NonNegativeFloat = 1.0
    """Weight of the 3D-to-2D loss; 0 leaves it and its score network out."""

    def __post_init__(self) -> None:
        if self.contrastive == "predictive" and self.projection is None:
            raise ConfigError(
                "objective.moleculesde: contrastive=predictive predicts projections, and projection is null. Give it a "
                "width (projection=256)."
            )
        if not (self.contrastive_coefficient or self.position_coefficient or self.bond_coefficient):
            raise ConfigError(
                "objective.moleculesde: all three coefficients are 0. Give one of contrastive_coefficient, "
                "position_coefficient and bond_coefficient a positive value."
            )


@configuration
class PaperMoleculeSDEConfig:
    """MoleculeSDE as published (Liu et al., ICML 2023); defaults of its MoleculeNet checkpoint with the VE equation."""

    weight: PositiveFloat = 1.0
    """Weight of the objective in the loss."""
    position_sde: Noise = "VE"
    """Noise of 2D to 3D."""
    graph_sde: Noise = "VE"
    """Noise of 3D to 2D: the same names stand for other numbers."""
    position_variant: Literal["01", "02"] = "02"
    """Edge attribute of the 2D-to-3D network."""
    contrastive: Contrastive = "ebm_nce"
    """Contrastive loss."""
    contrastive_level: Level = "atom"
    """What is compared: atoms, or molecules (pooled by the readout of either encoder)."""
    num_negatives: PositiveInt = 1
    """Negatives of a row in ebm_nce and ebm_nce_shift; in info_nce all other rows are."""
    temperature: PositiveFloat = 0.1
    """Divides the similarities of the contrastive loss."""
    contrastive_coefficient: NonNegativeFloat = 1.0
    """Weight of the contrastive loss."""
    position_coefficient: NonNegativeFloat = 1.0
    """Weight of the 2D-to-3D loss."""
    graph_coefficient: NonNegativeFloat = 1.0
    """Weight of the 3D-to-2D loss."""
    anneal_power: float = 0.0
    """Both diffusion losses are multiplied by std(t) to this power."""
    max_hops: PositiveInt = 4
    """The 2D-to-3D network connects atoms up to so many bonds apart."""
    gnn_2d_lr_scale: NonNegativeFloat = 1.0
    """Factor on the learning rate of the 2D encoder and the 2D-to-3D network."""
    gnn_3d_lr_scale: NonNegativeFloat = 0.1
    """Factor on the learning rate of the 3D encoder and the 3D-to-2D network."""


@configuration
class BlendConfig:
    """What an encoder is shown of a molecule: one relation of every two atoms, drawn at random."""

    path_length: NonNegativeFloat = 0.2
    """Probability of the number of bonds on a shortest path; the three sum to 1."""
    path_bonds: NonNegativeFloat = 0.2
    """Probability of the bonds along it."""
    distance: NonNegativeFloat = 0.6
    """Probability of the distance in space; of a molecule without a conformer the other two are shown in proportion."""
    surroundings: Probability = 0.6
    """Probability that an atom's surroundings in space are shown, in place of its features in the bond graph."""
    pairs: Literal["ordered", "unordered"] = "ordered"
    """Whether the two directions of a pair are drawn one by one (56 % then show two relations), or once."""

    def __post_init__(self) -> None:
        if abs(sum(self.probabilities()) - 1.0) > SUM_TOLERANCE:
            raise ConfigError(
                f"objective.moleblend.blend: path_length={self.path_length}, path_bonds={self.path_bonds} and distance="
                f"{self.distance} are probabilities of what is shown of two atoms: expected a sum of 1."
            )

    def probabilities(self) -> tuple[float, float, float]:
        """Of the relations, in the order of ``RELATIONS``."""
        return self.path_length, self.path_bonds, self.distance


@configuration
class MoleBLENDConfig:
    """MoleBLEND: predict path lengths, bonds along paths, distances and noise from a blend of them."""

    weight: PositiveFloat = 1.0
    """Weight of the objective in the loss."""
    blend: BlendConfig = BlendConfig()
    """What is shown."""
    loss_on: Literal["all", "hidden"] = "all"
    """Pairs that are predicted: all, or of every relation those of which another one was shown."""
    geometry: Literal["distance", "direction"] = "distance"
    """What is predicted of positions: distances, or, as the released code does, the direction from atom to atom in the
    frame of the file, which nothing that is shown determines."""
    position_noise: NonNegativeFloat = 0.2
    """Standard deviation of what is added to each coordinate, in angstrom."""
    noise_coefficient: PositiveFloat = 6.0
    """Weight of the loss of the noise."""
    geometry_coefficient: PositiveFloat = 0.5
    """Weight of the loss of distances, or directions."""
    path_length_coefficient: PositiveFloat = 0.1
    """Weight of the loss of path lengths."""
    path_bonds_coefficient: PositiveFloat = 0.1
    """Weight of the loss of the bonds along paths."""
    pair_rank: Width = 32
    """Entries of the two factors of a pair that the heads multiply; an export drops the heads."""
    attention_dropout: Decay = 0.0
    """Probability of dropping an attention weight in the head of the noise."""


@configuration
class DescriptorsConfig:
    """Predict RDKit's descriptors of a molecule from its vector, by every encoder of the model."""

    weight: PositiveFloat = 1.0
    """Weight of the objective in the loss."""
    transform: Transform = "rank"
    """What is predicted: rank (the normal score of a value's rank in the dataset) or winsorise (the standardised value,
    cut off at six standard deviations)."""
    hidden: Width = 256
    """Hidden width of the heads, which an export drops."""


@configuration
class TargetsConfig:
    """Predict the dataset's targets, its `target_columns`, from a molecule's vector, by every encoder of the model.

    Targets whose known values are all 0 or 1 are classes; the others are regressed.
    """

    weight: PositiveFloat = 1.0
    """Weight of the objective in the loss."""
    columns: list[str] | None = None
    """Names of the targets to learn; null: all that the dataset has."""
    transform: Transform = "rank"
    """What is predicted of a target that is no class: rank (the normal score of a value's rank in the dataset) or
    winsorise (the standardised value, cut off at six standard deviations)."""
    hidden: Width = 256
    """Hidden width of the heads, which an export drops."""

    def __post_init__(self) -> None:
        if self.columns is not None and (not self.columns or len(set(self.columns)) < len(self.columns)):
            raise ConfigError(
                f"objective.targets.columns=[{','.join(self.columns)}]: expected at least one target, each named once. "
                "Leave the key out to learn all."
            )


@configuration
class ShapesConfig:
    """Predict the shape of a conformer from its vector, by the 3D encoder."""

    weight: PositiveFloat = 1.0
    """Weight of the objective in the loss."""
    hidden: Width = 256
    """Hidden width of the head, which an export drops."""


@configuration
class ObjectiveConfig:
    """What is learned: the objectives of `objective=[a,b]`, whose losses are added by their weights.

    An objective that is null is not learned.
    """

    moleculesde: MoleculeSDEConfig | None = None
    """MoleculeSDE in our form; `objective=moleculesde`."""
    moleculesde_paper: PaperMoleculeSDEConfig | None = None
    """MoleculeSDE as published; `objective=moleculesde_paper`."""
    moleblend: MoleBLENDConfig | None = None
    """MoleBLEND; `objective=moleblend`."""
    mmsa: MMSAConfig | None = None
    """MMSA-style; `objective=mmsa`."""
    descriptors: DescriptorsConfig | None = None
    """Regression of RDKit's descriptors; `objective=descriptors`."""
    targets: TargetsConfig | None = None
    """Regression and classification of the dataset's targets; `objective=targets`."""
    shapes: ShapesConfig | None = None
    """Regression of a conformer's shape; `objective=shapes`."""

    def chosen(self) -> dict[str, Any]:
        """The configuration of every objective that is learned, by name, in the order of the fields.

        Raises:
            ConfigError: there is none.
        """
        names = [each.name for each in dataclasses.fields(self)]
        found = {name: config for name in names if (config := getattr(self, name)) is not None}
        if not found:
            raise ConfigError(f"no objective is configured: give objective=NAME, one or several of {', '.join(names)}.")
        return found
