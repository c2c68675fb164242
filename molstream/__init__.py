"""Raw molecule files to a pretrained, published 2D/3D molecular encoder, at any scale.

What ``__all__`` names is the public API; ``docs/python.md`` shows it at work. Its modules are imported when a name is
first used, so that ``import molstream`` itself is quick and needs no package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from molstream.api import preprocess, pretrain
    from molstream.preprocessing.config import FeaturizeConfig
    from molstream.preprocessing.featurize import featurize
    from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection
    from molstream.training.data.collate import collate_samples
    from molstream.training.data.dataset import MoleculeDataset
    from molstream.training.diffusion.config import SamplerConfig
    from molstream.training.inference.embedder import MoleculeEmbedder
    from molstream.training.inference.generate import GeneratedConformers, generate
    from molstream.training.inference.pretrained import PretrainedEncoders, load_pretrained

    __version__: str

__all__ = [
    "FeaturizeConfig",
    "GeneratedConformers",
    "MoleculeDataset",
    "MoleculeEmbedder",
    "MoleculeSample",
    "PretrainedEncoders",
    "RawMolecule",
    "Rejection",
    "SamplerConfig",
    "__version__",
    "collate_samples",
    "featurize",
    "generate",
    "load_pretrained",
    "preprocess",
    "pretrain",
]

_MODULES = {
    "FeaturizeConfig": "molstream.preprocessing.config",
    "GeneratedConformers": "molstream.training.inference.generate",
    "MoleculeDataset": "molstream.training.data.dataset",
    "MoleculeEmbedder": "molstream.training.inference.embedder",
    "MoleculeSample": "molstream.preprocessing.fields",
    "PretrainedEncoders": "molstream.training.inference.pretrained",
    "RawMolecule": "molstream.preprocessing.fields",
    "Rejection": "molstream.preprocessing.fields",
    "SamplerConfig": "molstream.training.diffusion.config",
    "collate_samples": "molstream.training.data.collate",
    "featurize": "molstream.preprocessing.featurize",
    "generate": "molstream.training.inference.generate",
    "load_pretrained": "molstream.training.inference.pretrained",
    "preprocess": "molstream.api",
    "pretrain": "molstream.api",
}
"""Where every public name is defined."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = _version()
    elif name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module 'molstream' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)


def _version() -> str:
    """Version of the installed package; "unknown" in a clone that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("molstream")
    except PackageNotFoundError:
        return "unknown"
