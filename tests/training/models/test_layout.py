"""Length buckets: how much they pad, where every atom and every pair stands, and that no fewer buckets would do."""

import gzip
import itertools
import lzma

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, RDLogger

from molstream.training.models.graph import molecule_pairs
from molstream.training.models.layout import (
    MASKED,
    MAX_PADDING_SHARE,
    bucket_limits,
    bucketed,
    ordered_rows,
    padding_share,
)

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=9)


def batch_of(sizes):
    return torch.repeat_interleave(torch.tensor(sizes))


def entries(sizes, limits):
    return sum(min(limit for limit in limits if limit >= size) ** 2 for size in sizes)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.sampled_from([0.0, 0.08, 0.3]))
def test_no_fewer_buckets_would_do_and_no_other_cut_pads_less(sizes, share):
    limits = bucket_limits(torch.tensor(sizes), share)
    needed = sum(size**2 for size in sizes)
    distinct = sorted(set(sizes))
    least = {
        count: min(entries(sizes, [*cut, distinct[-1]]) for cut in itertools.combinations(distinct[:-1], count - 1))
        for count in range(1, len(limits) + 1)
    }
    assert limits == sorted(set(limits))
    assert entries(sizes, limits) == least[len(limits)]
    assert [needed >= (1 - share) * least[count] for count in least] == [False] * (len(limits) - 1) + [True]


@settings(max_examples=60, deadline=None)
@given(SIZES)
def test_every_atom_and_every_pair_stands_where_it_should(sizes):
    batch = batch_of(sizes)
    layout, pairs = bucketed(batch), molecule_pairs(batch)
    number = {tuple(sorted(pair)): row for row, pair in enumerate(pairs.T.tolist())}
    bias = torch.arange(2.0 * (pairs.shape[1] + 1)).view(-1, 2)
    atoms = torch.arange(len(batch))
    padded, spread = layout.pad(atoms), layout.spread(bias)
    assert torch.equal(layout.unpad(padded), atoms)
    seen = []
    for bucket, rows, heads in zip(layout.buckets, padded, spread, strict=True):
        assert rows.shape == bucket
        assert heads.shape == (bucket.num_molecules, 2, bucket.size, bucket.size)
        for molecule, tables in zip(rows.tolist(), heads, strict=True):
            present = sorted(set(molecule))
            assert molecule[: len(present)] == present
            assert set(batch[present].tolist()) == {int(batch[present[0]])}
            assert len(present) == sizes[int(batch[present[0]])]
            for (a, i), (b, j) in itertools.product(enumerate(present), enumerate(molecule)):
                row = bias[number[tuple(sorted((i, j)))] if i != j else -1]
                assert torch.equal(tables[:, a, b], row if b < len(present) else torch.full((2,), MASKED))
            seen += present
    assert sorted(seen) == atoms.tolist()
    slots = sum(bucket.num_molecules * bucket.size**2 for bucket in layout.buckets)
    assert layout.padding_share == pytest.approx(1 - sum(size**2 for size in sizes) / slots)


@settings(max_examples=60, deadline=None)
@given(SIZES)
def test_the_share_of_padding_is_known_without_the_layout(sizes):
    assert padding_share(torch.tensor(sizes)) == bucketed(batch_of(sizes)).padding_share


def test_one_giant_molecule_costs_its_own_size_alone():
    sizes = torch.tensor([*range(12, 36), 250])
    to_the_largest = 1 - int((sizes**2).sum()) / (len(sizes) * 250**2)
    assert to_the_largest > 0.9
    assert padding_share(sizes) < 0.1


def test_molecules_may_be_numbered_with_gaps():
    """As in a batch from which some molecules were left out."""
    layout = bucketed(torch.tensor([1, 1, 4]))
    assert layout.buckets == ((1, 1), (1, 2))
    assert layout.atom_of_slot.tolist() == [2, 0, 1]


def sizes_of(lines):
    molecules = [Chem.MolFromSmiles(line.split()[0]) for line in itertools.islice(lines, 1, 257)]
    return [m.GetNumAtoms() for m in molecules if m is not None and m.GetNumAtoms()]


def test_real_batches_are_padded_by_less_than_a_tenth_in_few_buckets(shared_data):
    """Measured on ZINC: 7 buckets for 256 molecules, where a single one would pad 53 %, or 98 % with a chain of 200."""
    RDLogger.DisableLog("rdApp.*")
    with lzma.open(shared_data / "pretrain_smiles" / "zinc250k.smiles.xz", "rt") as lines:
        zinc = sizes_of(lines)
    with gzip.open(shared_data / "nasty" / "NCI_first_5K.smi.gz", "rt") as lines:
        nasty = sizes_of(lines)
    RDLogger.EnableLog("rdApp.*")
    for sizes, most in ((zinc, 8), ([*zinc, 200], 8), (zinc[:32], 8), (nasty, 14), ([*zinc, *nasty, 200], 14)):
        layout = bucketed(batch_of(sizes))
        assert layout.padding_share <= MAX_PADDING_SHARE < 0.1
        assert len(layout.buckets) <= most


@settings(max_examples=60, deadline=None)
@given(SIZES)
def test_both_directions_of_a_pair_and_every_atom_with_itself_have_rows(sizes):
    batch = batch_of(sizes)
    layout, pairs = bucketed(batch, ordered=True), molecule_pairs(batch)
    rows = ordered_rows(pairs, len(batch))
    number = {tuple(pair): row for row, pair in enumerate(rows.T.tolist())}
    assert len(number) == layout.num_rows == sum(size**2 for size in sizes)
    bias = torch.arange(2.0 * layout.num_rows).view(-1, 2)
    padded, spread = layout.pad(torch.arange(len(batch))), layout.spread(bias)
    for molecules, heads in zip(padded, spread, strict=True):
        for molecule, tables in zip(molecules.tolist(), heads, strict=True):
            size = len(set(molecule))
            for a, b in itertools.product(range(len(molecule)), repeat=2):
                real = a < size and b < size
                expected = bias[number[molecule[a], molecule[b]]] if real else torch.full((2,), MASKED)
                assert torch.equal(tables[:, a, b], expected)
    assert torch.equal(layout.collect([heads.permute(0, 2, 3, 1) for heads in spread]), bias)
