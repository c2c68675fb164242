"""Builds a batch as large as any of a dataset, so that a run that needs too much memory fails before it starts."""

from collections.abc import Mapping

import torch

from molstream.training.data.batch import MoleculeBatch
from molstream.training.models.graph import segment_mean

CARBON, SP3, FOUR_BONDS = 5, 2, 4


def largest_batch(
    histograms: Mapping[str, Mapping[str, int]],
    molecules: int,
    targets: int,
    descriptors: int = 0,
    image_size: int | None = None,
) -> MoleculeBatch:
    """Build carbon rings as large as the ``molecules`` largest molecules of a dataset, with bonds of 1.5 angstrom.

    Args:
        histograms: histograms of the manifest: molecules by number of heavy atoms, and stored atoms by element.
        molecules: number of molecules in the batch.
        targets: number of targets, all of them missing.
        descriptors: number of descriptors, all of them missing.
        image_size: height and width of images, which are black; by default there are none.
    """
    heavy_atoms = histograms["heavy_atoms"]
    total = sum(int(size) * count for size, count in heavy_atoms.items())
    # Above 1 if hydrogens are stored.
    atoms_per_heavy_atom = sum(histograms["elements"].values()) / max(1, total)
    sizes: list[int] = []
    for size, count in sorted(((int(size), count) for size, count in heavy_atoms.items()), reverse=True):
        sizes += [max(1, round(size * atoms_per_heavy_atom))] * min(count, molecules - len(sizes))
    counts = torch.tensor(sizes)
    ptr = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    molecule = torch.repeat_interleave(torch.arange(len(sizes)), counts)
    place = torch.arange(int(ptr[-1])) - ptr[molecule]
    angle = 2 * torch.pi * place / counts[molecule]
    radius = 1.5 * counts[molecule] / (2 * torch.pi)
    x = torch.zeros((len(molecule), 9), dtype=torch.long)
    x[:, 0], x[:, 2], x[:, 3], x[:, 6] = CARBON, FOUR_BONDS, 5, SP3
    # Two atoms are not a ring: their bond would appear twice.
    bonded = counts[molecule] > 2
    here = torch.arange(len(molecule))[bonded]
    there = ptr[molecule[bonded]] + (place[bonded] + 1) % counts[molecule[bonded]]
    pos = torch.stack([radius * angle.cos(), radius * angle.sin(), 0.1 * torch.sin(7 * angle)], dim=1)
    return MoleculeBatch(
        x=x,
        edge_index=torch.stack([here, there, there, here], dim=1).view(-1, 2).T.contiguous(),
        edge_attr=torch.zeros((2 * len(here), 3), dtype=torch.long),
        pos=(pos - segment_mean(pos, molecule, len(sizes))[molecule]).float(),
        has_pos=torch.ones(len(sizes), dtype=torch.bool),
        batch=molecule,
        ptr=ptr,
        y=torch.full((len(sizes), targets), torch.nan),
        descriptors=torch.full((len(sizes), descriptors), torch.nan),
        index=torch.zeros(len(sizes), dtype=torch.long),
        **black_images(len(sizes), image_size),
    )


def black_images(molecules: int, size: int | None) -> dict[str, torch.Tensor]:
    """The fields of a batch with images of so many molecules; none for a model that sees no images."""
    if size is None:
        return {}
    pixels = torch.zeros((molecules, 3, size, size), dtype=torch.uint8)
    return {"images": pixels, "has_image": torch.ones(molecules, dtype=torch.bool)}
