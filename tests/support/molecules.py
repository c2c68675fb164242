"""Small real molecules as batches, built from SMILES by RDKit alone, and motions that tests apply to them.

Also datasets of molecules, written by the featurizer without a job, and small configurations.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from molstream.config import CONFIG_DIR, load, read_yaml
from molstream.pipeline.shards.distributions import Distribution
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.descriptors import DESCRIPTORS_V1, descriptors
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.labels import Labels, LabelTable
from molstream.training.models.config import ModelConfig
from molstream.training.module import num_parameters as num_parameters
from molstream.training.objectives.config import ObjectiveConfig
from tests.support.datasets import DRUGS as DRUGS
from tests.support.samples import write_dataset

AWKWARD = ("C", "O", "CC", "N#N", "C#C", "O=C=O", "[Na+].[Cl-]", "CC(=O)[O-].[Na+]", "[He]", "CCO")
"""Single atoms, diatomics, collinear molecules, salts with and without bonds, and one ordinary molecule."""


def molecule_batch(smiles: Sequence[str], has_pos: Sequence[bool] | None = None) -> MoleculeBatch:
    """Build a batch of molecules, heavy atoms only; rows of ``pos`` are zero where ``has_pos`` is False."""
    has_pos = [True] * len(smiles) if has_pos is None else list(has_pos)
    molecules = [_molecule(text) for text in smiles]
    counts = torch.tensor([len(x) for x, _, _, _ in molecules])
    ptr = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    bonds = [torch.tensor(index).view(2, -1) + start for (_, index, _, _), start in zip(molecules, ptr[:-1])]
    pos = [torch.tensor(pos) * present for (_, _, _, pos), present in zip(molecules, has_pos, strict=True)]
    return MoleculeBatch(
        x=torch.cat([torch.tensor(x) for x, _, _, _ in molecules]),
        edge_index=torch.cat(bonds, dim=1),
        edge_attr=torch.cat([torch.tensor(attr, dtype=torch.long).view(-1, 3) for _, _, attr, _ in molecules]),
        pos=torch.cat(pos),
        has_pos=torch.tensor(has_pos),
        batch=torch.repeat_interleave(torch.arange(len(smiles)), counts),
        ptr=ptr,
        y=torch.zeros(len(smiles), 0),
        descriptors=torch.zeros(len(smiles), 0),
        index=torch.arange(len(smiles)),
    )


def described(batch: MoleculeBatch, smiles: Sequence[str]) -> tuple[MoleculeBatch, Labels]:
    """Add the descriptors of its molecules to a batch, and targets; also their distributions over this batch.

    Targets are the weight, and whether the molecule weighs more than the median.
    """
    values = np.stack([descriptors(Chem.MolFromSmiles(text)) for text in smiles])
    weight = values[:, DESCRIPTORS_V1.index("MolWt")]
    targets = np.stack([weight, weight > np.median(weight)], 1).astype(np.float32)
    labels = Labels(table_of(DESCRIPTORS_V1, values), table_of(("weight", "heavy"), targets))
    return replace(batch, descriptors=torch.from_numpy(values), y=torch.from_numpy(targets)), labels


def table_of(names: Sequence[str], values: np.ndarray) -> LabelTable:
    """The names and distributions of labels, float32 [g, k]."""
    return LabelTable.of({name: Distribution.of(column) for name, column in zip(names, values.T, strict=True)})


def write_featurized(folder: Path, smiles: Sequence[str]) -> Path:
    """Write a dataset of molecules in two shards, with a target named as in the fixture ``dataset``."""
    raws = [RawMolecule(text, "smiles", "", row, (row / 10,)) for row, text in enumerate(smiles)]
    samples = [sample for raw in raws if isinstance(sample := featurize(raw, FeaturizeConfig()), MoleculeSample)]
    half = len(samples) // 2
    names = {"target_names": ("value",), "descriptor_names": DESCRIPTORS_V1}
    return write_dataset(folder, [samples[:half], samples[half:]], **names)


def with_pos(batch: MoleculeBatch, pos: torch.Tensor) -> MoleculeBatch:
    """Replace the positions of a batch."""
    return replace(batch, pos=pos)


def permuted(batch: MoleculeBatch, generator: torch.Generator) -> tuple[MoleculeBatch, torch.Tensor]:
    """Shuffle the atoms within each molecule; returns the batch and ``order``: new atom k was atom order[k]."""
    order = torch.cat(
        [start + torch.randperm(int(end - start), generator=generator) for start, end in zip(batch.ptr, batch.ptr[1:])]
    )
    new_number = torch.empty_like(order).scatter(0, order, torch.arange(order.numel()))
    moved = replace(batch, x=batch.x[order], pos=batch.pos[order], edge_index=new_number[batch.edge_index])
    return moved, order


def rotation(generator: torch.Generator) -> torch.Tensor:
    """Draw a random proper rotation, float64 [3, 3]."""
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q * torch.linalg.det(q).sign()


def model_config(name: str) -> ModelConfig:
    """Load a preset of ``configs/model``."""
    return load(ModelConfig, read_yaml(CONFIG_DIR / "model" / f"{name}.yaml"), name)


def paper_tiny(**networks: object) -> ModelConfig:
    """Configure the paper's networks with small widths; ``networks`` replace some of them."""
    return replace(model_config("paper_tiny"), **networks)


def tiny_model(objective: str) -> ModelConfig:
    """Configure a narrow model with the networks that an objective needs, and no encoder that it does not train."""
    preset = {"moleculesde_paper": "paper_tiny", "moleblend": "moleblend_tiny", "mmsa": "mmsa_tiny"}.get(
        objective, "tiny"
    )
    config = model_config(preset)
    return replace(config, graph_transformer=None) if objective == "shapes" else config


def objective_config(name: str, **values: object) -> ObjectiveConfig:
    """Create the configuration of one objective."""
    return ObjectiveConfig(**{name: values})


def seeded(seed: int = 0) -> torch.Generator:
    """Create a seeded CPU generator."""
    return torch.Generator().manual_seed(seed)


@cache
def _molecule(smiles: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Atom features [n, 9], directed bonds [2, e], bond features [e, 3] and centred positions [n, 3]."""
    hydrogens = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(hydrogens, randomSeed=7, useRandomCoords=True) == 0, smiles
    molecule = Chem.RemoveHs(hydrogens)
    pos = molecule.GetConformer().GetPositions().astype(np.float32)
    x = np.array([_atom_features(atom) for atom in molecule.GetAtoms()], dtype=np.int64)
    index, attr = [], []
    for bond in molecule.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        kind = 3 if bond.GetIsAromatic() else int(bond.GetBondTypeAsDouble()) - 1
        index += [(i, j), (j, i)]
        attr += [(kind, int(bond.GetStereo()) % 6, int(bond.GetIsConjugated()))] * 2
    edge_index = np.array(index, dtype=np.int64).reshape(-1, 2).T
    return x, edge_index, np.array(attr, dtype=np.int64).reshape(-1, 3), pos - pos.mean(0)


def _atom_features(atom: Chem.Atom) -> list[int]:
    return [
        atom.GetAtomicNum() - 1,
        min(int(atom.GetChiralTag()), 4),
        atom.GetTotalDegree(),
        atom.GetFormalCharge() + 5,
        atom.GetTotalNumHs(),
        atom.GetNumRadicalElectrons(),
        min(max(int(atom.GetHybridization()) - 2, 0), 5),
        int(atom.GetIsAromatic()),
        int(atom.IsInRing()),
    ]
