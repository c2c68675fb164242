"""Handedness of stereocentres: RDKit's own reading of the positions, whatever the order of atoms and bonds."""

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molstream.preprocessing.graph import atom_features, bonds
from molstream.preprocessing.hydrogens import smiles_order
from molstream.training.models.stereo import (
    CHIRALITY,
    CLOCKWISE,
    COUNTERCLOCKWISE,
    Stereocentres,
    handedness,
    stereocentres,
)
from tests.support.molecules import AWKWARD, molecule_batch, rotation, seeded

CHIRAL = (
    "C[C@H](N)C(=O)O",
    "F[C@](Cl)(Br)I",
    "C[C@@](N)(O)C#N",
    "C[C@]1(O)CC[C@@H](C)O1",
    "N[C@@H](CO)[C@H](O)c1ccccc1",
    "C[S@](=O)c1ccccc1",
    "CC[P@@](C)(=O)O",
    "O=C1C[C@H]2CC[C@]1(C)C2(C)C",
)


def embedded(smiles: str, hydrogens: bool) -> Chem.Mol:
    """With a geometry, which is the mirror image of what the SMILES says in every second conformer."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert len(rdDistGeom.EmbedMultipleConfs(mol, 4, randomSeed=1)) == 4
    for conformer in list(mol.GetConformers())[1::2]:
        conformer.SetPositions(-conformer.GetPositions())
    return mol if hydrogens else Chem.RemoveHs(mol)


def centres_of(mol: Chem.Mol) -> Stereocentres:
    ends = torch.from_numpy(bonds(mol)[0].astype(np.int64))
    both = torch.stack([ends, ends.flip(0)], dim=2).flatten(1)
    return stereocentres(torch.from_numpy(atom_features(mol).astype(np.int64)), both)


def tags(mol: Chem.Mol) -> list[Chem.ChiralType]:
    return [atom.GetChiralTag() for atom in mol.GetAtoms()]


def test_volumes_are_positive_where_rdkit_reads_the_specified_tag():
    seen = {3: 0, 4: 0}
    for mol in [embedded(smiles, hydrogens) for smiles in CHIRAL for hydrogens in (False, True)]:
        specified = [index for index, tag in enumerate(tags(mol)) if tag != Chem.ChiralType.CHI_UNSPECIFIED]
        centres = centres_of(mol)
        assert centres.centre.tolist() == specified
        for number, conformer in enumerate(mol.GetConformers()):
            shown = Chem.Mol(mol)
            Chem.AssignAtomChiralTagsFromStructure(shown, conformer.GetId(), replaceExistingTags=True)
            volume = handedness(centres, torch.from_numpy(conformer.GetPositions())).volume
            kept = [tags(shown)[index] == tags(mol)[index] for index in specified]
            assert kept == [number % 2 == 0] * len(specified)
            assert (volume > 0).tolist() == kept
            for index, value in zip(specified, volume.abs().tolist(), strict=True):
                degree = mol.GetAtomWithIdx(index).GetDegree()
                seen[degree] += 1
                assert 0.5 < value / {3: 0.77, 4: 3.08}[degree] < 1.5
    assert min(seen.values()) > 20


def test_neither_numbering_nor_order_of_bonds_matters():
    rng, turned = np.random.default_rng(0), 0
    for mol in [embedded(smiles, hydrogens) for smiles in CHIRAL for hydrogens in (False, True)]:
        positions = torch.from_numpy(mol.GetConformer().GetPositions() + rng.normal(size=(mol.GetNumAtoms(), 3)))
        centres = centres_of(mol)
        expected = dict(zip(centres.centre.tolist(), handedness(centres, positions).volume.tolist(), strict=True))
        # Another spelling has an order of atoms and bonds of its own, and tags that fit.
        renumbered = rng.permutation(mol.GetNumAtoms()).tolist()
        shuffled = Chem.RenumberAtoms(mol, renumbered)
        spelling = Chem.MolToSmiles(shuffled, canonical=False)
        order = [renumbered[k] for k in smiles_order(shuffled)]
        parameters = Chem.SmilesParserParams()
        parameters.removeHs = False
        again = Chem.MolFromSmiles(spelling, parameters)
        centres = centres_of(again)
        got = handedness(centres, positions[order]).volume.tolist()
        assert len(got) == len(expected)
        np.testing.assert_allclose(got, [expected[order[new]] for new in centres.centre.tolist()], rtol=1e-9)
        turned += sum(tags(again)[new] != tags(mol)[old] for new, old in enumerate(order))
    assert turned > 10


def test_motions_act_as_documented():
    batch = molecule_batch(CHIRAL)
    centres, pos = stereocentres(batch.x, batch.edge_index), batch.pos.double()
    there = handedness(centres, pos)
    turn = rotation(seeded(1))
    turned, mirrored = handedness(centres, pos @ turn.T + 2.0), handedness(centres, -pos @ turn.T)
    torch.testing.assert_close(turned.volume, there.volume)
    torch.testing.assert_close(turned.gradient, there.gradient @ turn.T)
    torch.testing.assert_close(mirrored.volume, -there.volume)
    torch.testing.assert_close(mirrored.gradient, there.gradient @ turn.T)
    # The other enantiomer, in the graph and in the positions: its mirror image in every respect.
    x = batch.x.clone()
    x[:, CHIRALITY] = torch.tensor([0, COUNTERCLOCKWISE, CLOCKWISE])[x[:, CHIRALITY]]
    other = handedness(stereocentres(x, batch.edge_index), -pos @ turn.T)
    torch.testing.assert_close(other.volume, there.volume)
    torch.testing.assert_close(other.gradient, -there.gradient @ turn.T)


def test_the_gradient_is_autograds():
    batch = molecule_batch(CHIRAL)
    centres, pos = stereocentres(batch.x, batch.edge_index), batch.pos.double().requires_grad_()
    hands = handedness(centres, pos)
    [expected] = torch.autograd.grad(hands.volume.sum(), pos)
    way = pos[centres.corners] - pos[centres.centre].unsqueeze(1)
    length = torch.sqrt(way.square().sum(2, keepdim=True) + 0.01)
    unit = way / length
    along = (hands.gradient - unit * (unit * hands.gradient).sum(2, keepdim=True)) / length
    found = torch.zeros_like(expected).index_add(0, centres.corners.flatten(), along.flatten(0, 1))
    torch.testing.assert_close(found.index_add(0, centres.centre, -along.sum(1)), expected)


def test_molecules_without_stereocentres_and_coincident_atoms_are_no_trouble():
    batch = molecule_batch(AWKWARD)
    centres = stereocentres(batch.x, batch.edge_index)
    assert centres.centre.numel() == 0
    assert handedness(centres, batch.pos).volume.shape == (0,)
    batch = molecule_batch(CHIRAL)
    hands = handedness(stereocentres(batch.x, batch.edge_index), torch.zeros_like(batch.pos))
    assert not hands.volume.any()
    assert not hands.gradient.any()


def test_tags_that_are_not_tetrahedral_or_lack_neighbours_are_none():
    batch = molecule_batch(["CCO", "C[C@H](N)C(=O)O"])
    x = batch.x.clone()
    x[:, CHIRALITY] = torch.tensor([COUNTERCLOCKWISE, CLOCKWISE, 3, 4, 3, 0, COUNTERCLOCKWISE, 0, 0])
    centres = stereocentres(x, batch.edge_index)
    assert centres.centre.tolist() == [6]
    assert centres.sign.tolist() == [1]
