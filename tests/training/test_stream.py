"""The stream: whatever the route, a molecule's record becomes the same rows of a batch."""

import numpy as np
import pytest
import torch

from pipeline.order import LaneOrder
from pipeline.shards.reader import ShardDataset
from preprocessing.fields import FIELDS
from training.data.batch import MoleculeBatch
from training.data.stream import LaneStream, conformer_draw


@pytest.fixture(scope="module")
def shards(dataset):
    return ShardDataset(dataset)


def make_order(shards, lanes=4, micro_batch=3, seed=5):
    return LaneOrder(shards.block_rows, seed, lanes, micro_batch, window_blocks=2)


def molecule(batch: MoleculeBatch, k: int) -> dict[str, torch.Tensor]:
    """The k-th molecule of a batch on its own."""
    atoms = slice(int(batch.ptr[k]), int(batch.ptr[k + 1]))
    edges = (batch.batch[batch.edge_index[0]] == k).nonzero().squeeze(1)
    return {
        "x": batch.x[atoms],
        "pos": batch.pos[atoms],
        "edge_index": batch.edge_index[:, edges] - batch.ptr[k],
        "edge_attr": batch.edge_attr[edges],
    }


def test_batches_hold_the_stored_records(shards):
    batch = LaneStream(shards, make_order(shards), [2]).step(1)[0]
    stored = shards.read_rows(batch.index.numpy(), [field.name for field in FIELDS])
    for k in range(batch.num_graphs):
        record = stored.slice(k, k + 1)
        found = molecule(batch, k)
        bonds = torch.from_numpy(record.values["bond_index"].astype(np.int64)).T
        assert torch.equal(found["x"], torch.from_numpy(record.values["atom_features"].astype(np.int64)))
        # Both directions of every bond stand beside each other, with the same features.
        assert torch.equal(found["edge_index"][:, 0::2], bonds)
        assert torch.equal(found["edge_index"][:, 1::2], bonds.flip(0))
        assert torch.equal(found["edge_attr"][0::2], found["edge_attr"][1::2])
        assert torch.equal(found["pos"], torch.from_numpy(record.values["positions"]))
        assert torch.equal(batch.y[k], torch.from_numpy(record.values["targets"].reshape(-1)))
    assert batch.has_pos.all()


def test_a_batch_is_what_pyg_would_have_made(shards):
    from torch_geometric.data import Batch, Data

    batch = LaneStream(shards, make_order(shards), [0]).step(0)[0]
    pyg = Batch.from_data_list([Data(**molecule(batch, k)) for k in range(batch.num_graphs)])
    ours = batch.to_pyg()
    for name in ("x", "pos", "edge_index", "edge_attr", "batch", "ptr"):
        assert torch.equal(getattr(ours, name), getattr(pyg, name)), name
    assert ours.num_graphs == pyg.num_graphs


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_any_start_and_any_split_of_the_lanes_gives_the_same_batches(shards, prefetch):
    order = make_order(shards)
    steps = 2 * order.steps_per_epoch + 1
    whole = [[b.index.tolist() for b in lanes] for lanes in LaneStream(shards, order, range(4)).steps(0, steps, 0)]
    assert len(whole) == steps
    middle = order.steps_per_epoch + 1
    resumed = LaneStream(shards, order, range(4)).steps(middle, steps, prefetch)
    assert [[b.index.tolist() for b in lanes] for lanes in resumed] == whole[middle:]
    halves = [list(LaneStream(shards, order, lanes).steps(0, steps, prefetch)) for lanes in ([0, 2], [1, 3])]
    merged = [[a[0], b[0], a[1], b[1]] for a, b in zip(*halves, strict=True)]
    assert [[b.index.tolist() for b in lanes] for lanes in merged] == whole


def test_an_epoch_shows_every_sample_at_most_once(shards):
    order = make_order(shards, micro_batch=5)
    stream = LaneStream(shards, order, range(4))
    index = torch.cat([b.index for step in range(order.steps_per_epoch) for b in stream.step(step)])
    assert len(index.unique()) == len(index) == order.steps_per_epoch * 20


def test_an_error_of_the_reader_reaches_the_consumer(shards, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(shards.path, copy)
    broken = ShardDataset(copy)
    next(copy.glob("shard-*")).unlink()
    with pytest.raises(Exception, match="shard-"):
        list(LaneStream(broken, make_order(broken), range(4)).steps(0, 20, 2))


def test_the_conformer_of_a_molecule_changes_with_epoch_and_seed_but_repeats():
    index = np.arange(4000)
    draw = conformer_draw(0, 0, index)
    assert np.array_equal(draw, conformer_draw(0, 0, index))
    assert not np.array_equal(draw, conformer_draw(0, 1, index))
    assert not np.array_equal(draw, conformer_draw(1, 0, index))
    counts = np.bincount((draw % np.uint64(5)).astype(int), minlength=5)
    assert (abs(counts - 800) < 120).all()
