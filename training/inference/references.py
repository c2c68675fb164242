"""Publications of encoders and objectives, for model cards."""

from collections.abc import Iterable

MOLECULESDE = (
    "Liu, Du, Ma, Guo, Tang: A Group Symmetric Stochastic Differential Equation Model for Molecule Multi-modal "
    "Pretraining. ICML 2023, arXiv 2305.18407 (MoleculeSDE)"
)
MOLEBLEND = (
    "Yu, Zhang, Ni, Feng, Lan, Zhou, Liu: Multimodal Molecular Pretraining via Modality Blending. ICLR 2024, "
    "arXiv 2307.06235 (MoleBLEND)"
)
MMSA = (
    "Yin, Liu, Hao, Zhou, Liu, Ma, Wang: Multi-Modal Molecular Representation Learning via Structure Awareness. IEEE "
    "Transactions on Image Processing 2025, arXiv 2505.05877 (MMSA; this objective is after its abstract)"
)
REFERENCES = {
    "moleculesde": MOLECULESDE,
    "moleculesde_paper": MOLECULESDE,
    "moleblend": MOLEBLEND,
    "mmsa": MMSA,
    "blend_transformer": MOLEBLEND,
    "blend_transformer_paper": MOLEBLEND,
    "gin": "Xu, Hu, Leskovec, Jegelka: How Powerful are Graph Neural Networks? ICLR 2019, arXiv 1810.00826 (GIN)",
    "schnet": (
        "Schütt, Kindermans, Sauceda, Chmiela, Tkatchenko, Müller: SchNet: A continuous-filter convolutional neural "
        "network for modeling quantum interactions. NeurIPS 2017, arXiv 1706.08566"
    ),
    "painn": (
        "Schütt, Unke, Gastegger: Equivariant message passing for the prediction of tensorial properties and "
        "molecular spectra. ICML 2021, arXiv 2102.03150 (PaiNN)"
    ),
    "comenet": (
        "Wang, Liu, Lin, Liu, Ji: ComENet: Towards Complete and Efficient Message Passing for 3D Molecular Graphs. "
        "NeurIPS 2022, arXiv 2206.08515"
    ),
    "resnet": "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition. CVPR 2016, arXiv 1512.03385 (ResNet)",
}
"""By the name of an objective or an encoder; what is not here was not published before."""


def references(names: Iterable[str]) -> list[str]:
    """The publications of objectives and encoders, each once."""
    return list(dict.fromkeys(REFERENCES[name] for name in names if name in REFERENCES))
