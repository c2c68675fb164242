"""The stream: whatever the route, a molecule's record becomes the same rows of a batch."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from molstream.errors import ConfigError, DataError
from molstream.pipeline.order.lanes import lanes_of_rank
from molstream.pipeline.order.mixture import Mixture
from molstream.pipeline.shards.reader import ShardDataset, ShardFile
from molstream.preprocessing.descriptors import DESCRIPTORS_V1
from molstream.preprocessing.fields import FIELDS
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.collate import COLLATED_FIELDS
from molstream.training.data.stream import LaneStream, conformer_draw
from tests.support.samples import random_samples, write_dataset

READ = ShardFile.read_block


@pytest.fixture(scope="module")
def shards(dataset):
    return Mixture([ShardDataset(dataset)])


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """Three datasets of random molecules, the last one small."""
    folder = tmp_path_factory.mktemp("mixture")
    sizes = ((70, 61, 50), (40, 44), (9,))
    datasets = [
        ShardDataset(write_dataset(folder / str(k), [random_samples(10 * k + j, n, 2) for j, n in enumerate(counts)]))
        for k, counts in enumerate(sizes)
    ]
    return Mixture(datasets, [0.6, 0.3, 0.1])


@pytest.fixture(params=["one", "several"])
def data(request, shards, mixture):
    return {"one": shards, "several": mixture}[request.param]


def make_order(data, lanes=4, micro_batch=3, seed=5, length_buckets=False):
    return data.order(seed, lanes, micro_batch, window_blocks=2, length_buckets=length_buckets)


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
    batch = LaneStream(shards, make_order(shards), [2], {"descriptors", "targets", "key"}).step(1)[0]
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
        assert torch.equal(batch.descriptors[k], torch.from_numpy(record.values["descriptors"]))
        digest = hashlib.blake2b(record.values["key"][0].encode(), digest_size=8).digest()
        assert batch.key_hash[k] == int.from_bytes(digest, "little", signed=True)
    assert batch.has_pos.all()
    assert batch.descriptors.shape == (batch.num_graphs, len(DESCRIPTORS_V1))
    assert batch.descriptors.dtype == torch.float32


def test_labels_are_read_only_where_they_are_asked_for(shards, monkeypatch):
    asked = []
    monkeypatch.setattr(
        ShardFile, "read_block", lambda self, block, names: asked.append(names) or READ(self, block, names)
    )
    batch = LaneStream(shards, make_order(shards), [2], {"positions"}).step(1)[0]
    assert batch.descriptors.shape == batch.y.shape == (batch.num_graphs, 0)
    assert batch.key_hash.shape == (0,)
    assert set(asked) == {COLLATED_FIELDS}
    with_them = LaneStream(shards, make_order(shards), [2], {"descriptors", "targets"}).step(1)[0]
    assert tensors([[replace(with_them, descriptors=batch.descriptors, y=batch.y)]]) == tensors([[batch]])


def test_a_batch_is_what_pyg_would_have_made(shards):
    from torch_geometric.data import Batch, Data

    batch = LaneStream(shards, make_order(shards), [0]).step(0)[0]
    pyg = Batch.from_data_list([Data(**molecule(batch, k)) for k in range(batch.num_graphs)])
    ours = batch.to_pyg()
    for name in ("x", "pos", "edge_index", "edge_attr", "batch", "ptr"):
        assert torch.equal(getattr(ours, name), getattr(pyg, name)), name
    assert ours.num_graphs == pyg.num_graphs


def tensors(batches):
    return [[{k: value.numpy().tobytes() for k, value in b.tensors().items()} for b in lanes] for lanes in batches]


@pytest.mark.parametrize("length_buckets", [False, True])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_any_start_and_any_world_size_gives_the_same_batches(data, prefetch, length_buckets):
    order = make_order(data, length_buckets=length_buckets)
    steps = 2 * order.steps_per_epoch + 1
    whole = tensors(LaneStream(data, order, range(4)).steps(0, steps, 0))
    assert len(whole) == steps
    middle = order.steps_per_epoch + 1
    assert tensors(LaneStream(data, order, range(4)).steps(middle, steps, prefetch)) == whole[middle:]
    for world_size in (2, 4):
        ranks = [lanes_of_rank(rank, world_size, 4) for rank in range(world_size)]
        parts = [tensors(LaneStream(data, order, lanes).steps(0, steps, prefetch)) for lanes in ranks]
        for step in range(steps):
            merged = {lane: batch for lanes, part in zip(ranks, parts) for lane, batch in zip(lanes, part[step])}
            assert [merged[lane] for lane in range(4)] == whole[step]
    # Steps back and forth, as an interrupted validation or a second look at a step takes them.
    stream = LaneStream(data, order, [2])
    for step in (steps - 1, 0, middle, 1):
        assert tensors([stream.step(step)]) == [[whole[step][2]]]


@pytest.mark.parametrize("length_buckets", [False, True])
def test_an_epoch_shows_every_sample_at_most_once(shards, length_buckets):
    order = make_order(shards, micro_batch=5, length_buckets=length_buckets)
    stream = LaneStream(shards, order, range(4))
    for epoch in range(2):
        first = epoch * order.steps_per_epoch
        index = torch.cat([b.index for k in range(order.steps_per_epoch) for b in stream.step(first + k)])
        assert len(index.unique()) == len(index) == order.steps_per_epoch * 20


@pytest.mark.parametrize("length_buckets", [False, True])
def test_a_mixture_shows_every_dataset_by_its_weight_and_as_alone_each_sample_once_an_epoch(mixture, length_buckets):
    lanes, micro_batch = 3, 10
    order = make_order(mixture, lanes, micro_batch, length_buckets=length_buckets)
    stream = LaneStream(mixture, order, range(lanes), {"targets"})
    seen: list[list[int]] = [[] for _ in range(lanes)]
    for step in range(60):
        for lane, batch in enumerate(stream.step(step)):
            seen[lane] += batch.index.tolist()
            stored = mixture.read_rows(batch.index.numpy(), ["targets"]).values["targets"].reshape(micro_batch, 2)
            assert np.array_equal(batch.y.numpy(), stored, equal_nan=True)
    bounds = [*mixture.first, mixture.num_rows]
    for lane in range(lanes):
        for k, (weight, dataset) in enumerate(zip(mixture.weights, mixture.datasets)):
            own = [i for i in seen[lane] if bounds[k] <= i < bounds[k + 1]]
            assert abs(len(own) - 600 * weight) <= 1.5
            epoch = dataset.num_rows // lanes
            epochs = [own[i : i + epoch] for i in range(0, len(own), epoch)]
            assert all(len(set(part)) == len(part) for part in epochs)
    # The lanes of an epoch of the first dataset are disjoint.
    epoch = mixture.datasets[0].num_rows // lanes
    firsts = [i for lane in seen for i in [i for i in lane if i < bounds[1]][:epoch]]
    assert len(set(firsts)) == 3 * epoch


def test_a_mixture_of_one_is_that_dataset_and_the_order_of_each_does_not_depend_on_the_others(mixture):
    def indices(data, steps=8):
        order = make_order(data, lanes=2, micro_batch=4)
        return [b.index.tolist() for k in range(steps) for b in LaneStream(data, order, range(2)).step(k)]

    first = mixture.datasets[0]
    assert indices(Mixture([first], [17.0])) == indices(Mixture([first]))
    one, other = Mixture(mixture.datasets[:2], [1, 1]), Mixture([mixture.datasets[0], mixture.datasets[2]], [1, 1])

    def of_first(data):
        return [[i for i in batch if i < first.num_rows] for batch in indices(data)]

    assert of_first(one) == of_first(other)


def test_length_buckets_bring_molecules_of_similar_size_together(data):
    def spread(length_buckets):
        order = make_order(data, lanes=1, micro_batch=4, length_buckets=length_buckets)
        stream = LaneStream(data, order, [0])
        sizes = [stream.step(k)[0].ptr.diff() for k in range(order.steps_per_epoch)]
        return np.mean([float(s.max() - s.min()) for s in sizes])

    # The four molecules of a step are 4 of the 16 that are sorted together.
    assert spread(True) < 0.55 * spread(False)


def test_datasets_that_do_not_fit_together_are_refused_by_name(mixture, tmp_path):
    samples = [random_samples(0, 20, 2)]
    first = mixture.datasets[0]
    for values, message in (
        ({"target_names": ("b", "a")}, r"targets \['b', 'a'\], .* has \['a', 'b'\]"),
        ({"hydrogens": "all"}, "has hydrogens all, .* has heavy"),
        ({"descriptor_names": ("d0",)}, "has 1 descriptors, .* has 0: .*featurize.descriptors"),
    ):
        if "descriptor_names" in values:
            samples = [random_samples(0, 20, 2, 1)]
        other = ShardDataset(write_dataset(tmp_path / "other", samples, **values))
        with pytest.raises(ConfigError, match=message):
            Mixture([first, other], [1, 1])


def test_fingerprint_and_record_of_a_mixture_cover_datasets_order_and_weights(mixture):
    datasets, weights = mixture.datasets, [0.6, 0.3, 0.1]
    prints = {
        Mixture(d, w).fingerprint
        for d, w in (
            (datasets, weights),
            (datasets, [0.6, 0.2, 0.2]),
            (datasets[::-1], weights),
            (datasets[:2], weights[:2]),
            (datasets[:1], [1]),
        )
    }
    assert len(prints) == 5
    assert Mixture(datasets, [6, 3, 1]).fingerprint == mixture.fingerprint
    assert Mixture(datasets[:1]).fingerprint == datasets[0].manifest.fingerprint
    record = mixture.record()
    assert not {"shards", "splits", "dropped"} & record.keys()
    assert record["counts"]["written"] == mixture.num_rows
    assert [part["weight"] for part in record["mix"]] == weights
    assert Mixture(datasets[:1]).record()["fingerprint"] == datasets[0].manifest.fingerprint


def test_an_error_of_the_reader_reaches_the_consumer(shards, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(shards.path, copy)
    broken = Mixture([ShardDataset(copy)])
    next(copy.glob("shard-*")).unlink()
    with pytest.raises(DataError, match="shard-"):
        list(LaneStream(broken, make_order(broken), range(4)).steps(0, 20, 2))


def test_the_conformer_of_a_molecule_changes_with_epoch_and_seed_but_repeats():
    index = np.arange(4000)
    draw = conformer_draw(0, 0, index)
    assert np.array_equal(draw, conformer_draw(0, 0, index))
    assert not np.array_equal(draw, conformer_draw(0, 1, index))
    assert not np.array_equal(draw, conformer_draw(1, 0, index))
    counts = np.bincount((draw % np.uint64(5)).astype(int), minlength=5)
    assert (abs(counts - 800) < 120).all()


def test_a_mixture_says_how_the_descriptors_of_all_its_molecules_are_distributed(tmp_path):
    parts = [random_samples(0, 300, 2, 2), random_samples(1, 100, 2, 2)]
    datasets = [ShardDataset(write_dataset(tmp_path / str(k), [part])) for k, part in enumerate(parts)]
    assert Mixture(datasets[:1]).descriptor_statistics == datasets[0].manifest.descriptor_statistics
    mixture = Mixture(datasets, [1, 1])
    assert mixture.descriptor_names == ("d0", "d1")
    values = np.array([sample.descriptors[0] for part in parts for sample in part])
    found = mixture.descriptor_statistics["d0"]
    assert (found.known, found.missing) == (np.isfinite(values).sum(), np.isnan(values).sum())
    assert found.mean == pytest.approx(np.nanmean(values.astype(np.float64)))
    record = mixture.record()
    assert record["descriptor_names"] == ("d0", "d1")
    assert record["descriptor_statistics"]["d0"] == found.to_dict()


def test_targets_of_a_mixture_are_counted_together_unless_one_dataset_is_from_before_they_were(tmp_path):
    parts = [random_samples(0, 300, 2), random_samples(1, 100, 2)]
    datasets = [ShardDataset(write_dataset(tmp_path / str(k), [part])) for k, part in enumerate(parts)]
    assert Mixture(datasets[:1]).target_statistics == datasets[0].manifest.target_statistics
    values = np.array([sample.targets for part in parts for sample in part])
    record = Mixture(datasets, [1, 1]).record()
    for k, name in enumerate(("a", "b")):
        found = record["target_statistics"][name]
        assert (found["known"], found["missing"]) == (np.isfinite(values[:, k]).sum(), np.isnan(values[:, k]).sum())
        assert found["deviation"] == pytest.approx(np.nanstd(values[:, k].astype(np.float64)))
    before = ShardDataset(write_dataset(tmp_path / "before", parts[:1], target_statistics={}))
    assert Mixture([datasets[1], before], [1, 1]).record()["target_statistics"] == {}
