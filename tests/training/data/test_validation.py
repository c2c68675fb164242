"""The validation stream: every molecule once, and a result that no number of processes changes."""

import numpy as np
import pytest
import torch

from molstream.pipeline.order.lanes import lanes_of_rank
from molstream.pipeline.shards.reader import ShardDataset
from molstream.randomness import keyed_seed
from molstream.training.data.collate import collate, collated_fields
from molstream.training.data.validation import ValidationStream
from tests.support.samples import random_samples, write_dataset

LANES = 4


@pytest.fixture(scope="module", params=[1, 3, 33, 61, 64])
def dataset(request, tmp_path_factory):
    samples = random_samples(0, request.param, 2, 3)
    shards = [part for part in (samples[:25], samples[25:]) if part]
    return ShardDataset(write_dataset(tmp_path_factory.mktemp("validation") / "dataset", shards))


def metrics(number: int, molecules) -> torch.Tensor:
    """Something that depends on the molecules, on what they are batched with, and on noise."""
    noise = torch.randn((), generator=torch.Generator().manual_seed(keyed_seed(0, number)))
    mean = molecules.pos.mean() if molecules.num_nodes else torch.zeros(())
    return torch.stack([mean, mean * noise, torch.tensor(float(molecules.num_graphs))])


def validate(dataset, world_size: int, prefetch: int) -> torch.Tensor:
    """The mean over all processes, which meet after every round as ranks do."""
    served = [lanes_of_rank(rank, world_size, LANES) for rank in range(world_size)]
    streams = [ValidationStream(dataset, LANES, 8, lanes) for lanes in served]
    rounds = []
    for ranks in zip(*(stream.rounds(prefetch) for stream in streams), strict=True):
        lanes = {k: b for own, batches in zip(served, ranks) for k, b in zip(own, batches, strict=True)}
        rounds.append(torch.stack([metrics(lanes[k].number, lanes[k].molecules) for k in range(LANES)]))
    assert len(rounds) == streams[0].num_rounds
    return streams[0].mean(torch.stack(rounds))


def test_the_result_does_not_depend_on_the_world_size(dataset):
    alone = validate(dataset, 1, 0)
    assert torch.isfinite(alone).all()
    for world_size in (2, 4):
        assert torch.equal(validate(dataset, world_size, 2), alone)


def test_it_is_the_mean_over_every_molecule_once_in_manifest_order(dataset):
    stream = ValidationStream(dataset, LANES, 8, range(LANES), {"descriptors"})
    bounds = np.arange(stream.num_batches + 1) * dataset.num_rows // stream.num_batches
    counted = {}
    for number, batches in enumerate(stream.rounds()):
        for lane, batch in enumerate(batches):
            expected = np.arange(bounds[batch.number], bounds[batch.number + 1])
            assert batch.molecules.index.tolist() == expected.tolist()
            stored = dataset.read_rows(expected, collated_fields({"descriptors"}))
            same = collate(stored, expected, np.zeros(len(expected), np.uint64))
            assert torch.equal(batch.molecules.x, same.x)
            assert torch.equal(batch.molecules.pos, same.pos)
            torch.testing.assert_close(batch.molecules.descriptors, same.descriptors, rtol=0, atol=0, equal_nan=True)
            assert batch.molecules.descriptors.shape == (len(expected), 3)
            if weight := stream.weights[number, lane]:
                assert weight == len(expected)
                assert batch.number not in counted
                counted[batch.number] = metrics(batch.number, batch.molecules).double()
    sizes = np.diff(bounds)
    assert sorted(counted) == list(range(stream.num_batches))
    assert sizes.max() - sizes.min() <= 1
    assert sizes.max() <= 8
    mean = sum(counted[k] * int(size) for k, size in enumerate(sizes)) / dataset.num_rows
    torch.testing.assert_close(validate(dataset, 1, 0), mean, rtol=1e-12, atol=1e-12)


def test_what_a_lane_repeats_does_not_count_even_if_it_is_not_finite():
    class Empty:
        num_rows, block_rows = 9, [np.array([9])]

    stream = ValidationStream(Empty(), LANES, 8, [0])  # pyright: ignore[reportArgumentType]
    values = torch.ones(stream.num_rounds, LANES, 1)
    values[stream.weights == 0] = torch.nan
    assert stream.mean(values).tolist() == [1.0]
    assert int(stream.weights.sum()) == 9
