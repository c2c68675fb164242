"""Folds of repeated cross-validation: groups of molecules stay together, whatever the order of the rows of a file.

In the folding ``random`` a group is a molecule with its duplicates. In ``scaffold`` it is everything that shares a
Bemis-Murcko scaffold; an acyclic molecule is a group of its own, since all of them together would be half of some sets.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from rdkit import Chem, rdBase
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from molstream.preprocessing.scaffold import murcko_scaffold
from molstream.randomness import keyed_bits, keyed_seed

FOLDS, REPEATS = 5, 5
"""5 x 5 cross-validation."""


def scaffolds(smiles: Sequence[str]) -> list[str]:
    """Scaffolds without stereochemistry, as SMILES; empty for acyclic molecules.

    Args:
        smiles: of standardized molecules, which RDKit can read.
    """
    with rdBase.BlockLogs():
        return [murcko_scaffold(Chem.MolFromSmiles(text), include_chirality=False) for text in smiles]


def group_molecules(keys: Sequence[str], scaffolds: Sequence[str] | None = None) -> np.ndarray:
    """Name the group of each molecule, str [n]: the smallest key in it.

    Molecules of one key are in one group, and with scaffolds those of one scaffold, too. Groups that have a molecule in
    common are one: tautomers share a key, and may have two scaffolds.

    Args:
        keys: InChIKeys.
        scaffolds: see :func:`scaffolds`; None for groups of duplicates alone.
    """
    names = np.asarray(keys, dtype=str)
    _, nodes = np.unique(names, return_inverse=True)
    labels = nodes
    if scaffolds is not None:
        # The scaffold of an acyclic molecule is its key; no SMILES begins with a sign of equality.
        _, others = np.unique([text or f"={key}" for text, key in zip(scaffolds, keys)], return_inverse=True)
        size = len(names)
        links = coo_array((np.ones(size), (nodes, others + size)), shape=(2 * size, 2 * size))
        labels = connected_components(links, directed=False)[1][nodes]
    order = np.lexsort((names, labels))
    first = np.concatenate([[True], labels[order][1:] != labels[order][:-1]])
    smallest = names[order][first]
    return smallest[np.unique(labels, return_inverse=True)[1]]


def assign_folds(groups: np.ndarray, strata: np.ndarray, count: int, seed: int, repeat: int) -> np.ndarray:
    """Assign molecules to ``count`` folds of nearly equal size, int64 [n].

    Groups are placed whole, the larger ones first and those of one size in a random order. Each comes to the fold that
    has the least of what the group consists of, among those where it still fits. The result is a function of the
    groups' names and content, the seed and the repeat.

    Args:
        groups: names of the molecules' groups, str [n].
        strata: what is to be spread evenly, float64 [n, s], such as a column of ones for every class; s may be 0.
        seed, repeat: of the random order.
    """
    names, members = np.unique(groups, return_inverse=True)
    content = np.zeros((len(names), 1 + strata.shape[1]))
    np.add.at(content, members, np.column_stack([np.ones(len(groups)), strata]))
    digests = [hashlib.sha256(name.encode()).digest()[:8] for name in names.tolist()]
    numbers = np.frombuffer(b"".join(digests), np.dtype("<u8"))
    order = np.lexsort((keyed_bits(numbers, keyed_seed(seed, repeat)), -content[:, 0]))
    # Adding g to a fold with s raises the sum of squares by 2 s g + g^2; columns are shares of their totals.
    costs = content / np.maximum(content.sum(0), 1) ** 2
    room = -(-len(groups) // count)
    filled = np.zeros((count, content.shape[1]))
    fold_of = np.zeros(len(names), np.int64)
    for group in order:
        price = filled @ costs[group]
        fits = filled[:, 0] + content[group, 0] <= room
        # Where it fits nowhere, as a scaffold of more than a fifth of all molecules, into the smallest fold.
        price = np.where(fits, price, np.inf) if fits.any() else filled[:, 0]
        fold_of[group] = np.argmin(price)
        filled[fold_of[group]] += content[group]
    return fold_of[members]


def class_strata(labels: np.ndarray) -> np.ndarray:
    """What stratification spreads: both classes of every target, float64 [n, 2 t], of labels [n, t], NaN if unknown."""
    return np.concatenate([labels == 0, labels == 1], axis=1).astype(np.float64)
