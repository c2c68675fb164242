"""The configuration of MMSA-style pretraining."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from molstream.config import Decay, Fraction, PositiveInt, configuration
from molstream.errors import ConfigError
from molstream.training.models.config import Width

Hypergraph = Literal["knn", "random"]
Incidence = Literal["binary", "distance"]
Normalization = Literal["row", "symmetric"]
AnchorUpdate = Literal["ema", "learned"]
Similarity = Literal["cosine", "dot"]
Usage = Literal["information", "entropy"]


@configuration
class MMSAConfig:
    """MMSA-style: align codes of a molecule's modalities, and typical molecules by a hypergraph and a memory."""

    weight: PositiveFloat = 1.0
    """Weight of the objective in the loss."""
    features: Width = 1024
    """Width of the features of a modality that its code reconstructs; an export drops all heads."""
    code: Width = 512
    """Width of the codes, which all modalities share."""
    keep: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Probability that a modality counts in a molecule's embedding during training; at least one does."""
    temperature: PositiveFloat = 0.1
    """Divides the cosine similarities of the contrast of codes."""
    homogeneity_coefficient: NonNegativeFloat = 0.6
    """Weight of the squared distance of codes of one molecule."""
    reconstruction_coefficient: NonNegativeFloat = 0.2
    """Weight of the reconstruction of features, and of that from codes of other modalities."""
    contrastive_coefficient: NonNegativeFloat = 0.5
    """Weight of the contrast of codes over the global batch."""
    memory: bool = True
    """Whether there is a memory of typical molecules; without it no loss reads the hypergraph, and neither is built."""
    hypergraph: Hypergraph = "knn"
    """Members of a molecule's hyperedge: knn (the nearest ones), or, as a control, random (as many drawn at random)."""
    neighbours: PositiveInt = 12
    """Members of a hyperedge, the molecule itself among them; 1 is the control without a hypergraph."""
    incidence: Incidence = "binary"
    """Weight of a member: binary (1), or distance (it falls with the distance, as a Gaussian)."""
    normalization: Normalization = "row"
    """Of the hypergraph convolution: row (of rows that sum to 1), or symmetric."""
    queue: PositiveInt = 4096
    """Embeddings of the latest molecules that are vertices beside those of the global batch."""
    structure: Width = 256
    """Width of the vectors that the hypergraph propagates, and of anchors."""
    dropout: Decay = 0.1
    """Probability of dropping an entry of these vectors before they are propagated."""
    anchors: PositiveInt = 128
    """Number of anchors of the memory."""
    anchor_update: AnchorUpdate = "ema"
    """How anchors move: ema (moving means of the molecules that activate them), or learned (by the gradient)."""
    anchor_decay: Decay = 0.99
    """Decay of the moving means."""
    anchor_similarity: Similarity = "cosine"
    """Similarity of a molecule and an anchor: cosine, or dot (product of vectors of any length)."""
    anchor_temperature: PositiveFloat = 0.1
    """Divides these similarities."""
    memory_coefficient: NonNegativeFloat = 0.9
    """Weight of the squared distance of a molecule from what it reads from the memory."""
    invariance_coefficient: NonNegativeFloat = 0.5
    """Weight of the divergence of the activations by one modality alone from those by the hypergraph."""
    usage: Usage = "information"
    """What makes molecules use the anchors: information (of a molecule about its anchor), or entropy (of the mean
    activation, which is as large if all molecules activate all anchors alike)."""
    usage_coefficient: NonNegativeFloat = 1.0
    """Weight of this term."""
    warmup_start: Fraction = 0.1
    """Share of the steps after which the terms of the memory begin to count."""
    warmup_length: Fraction = 0.1
    """Share of the steps in which their weight grows from 0 to 1."""

    def __post_init__(self) -> None:
        if not (self.homogeneity_coefficient or self.reconstruction_coefficient or self.contrastive_coefficient):
            raise ConfigError(
                "objective.mmsa: no term aligns the modalities. Give one of homogeneity_coefficient, "
                "reconstruction_coefficient and contrastive_coefficient a positive value."
            )
