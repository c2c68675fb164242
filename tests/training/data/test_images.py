"""Images in batches: those of the records, the same whoever draws them; molecules without one are masked."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from molstream.errors import ConfigError
from molstream.pipeline.order.lanes import lanes_of_rank
from molstream.pipeline.order.mixture import Mixture
from molstream.pipeline.shards.reader import ShardDataset
from molstream.preprocessing.drawing import PLAIN, View, image_of, random_view, stacked
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.dataset import MoleculeDataset
from molstream.training.data.images import ImageSource
from molstream.training.data.largest_batch import largest_batch
from molstream.training.data.stream import LaneStream
from molstream.training.data.validation import ValidationStream
from molstream.training.distributed.context import DistributedContext
from molstream.training.metrics.steps import StepRecords
from tests.support.samples import random_samples, write_dataset

SEED, LANES, SIZE = 5, 4, 112
UNREADABLE = "C1CC"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Chains of carbon; the SMILES of a third of the records cannot be read."""
    folder = tmp_path_factory.mktemp("images") / "dataset"
    samples = [
        replace(
            sample,
            smiles="C" * sample.num_atoms if k % 3 else UNREADABLE,
            bond_index=sample.bond_index % sample.num_atoms,
        )
        for k, sample in enumerate(random_samples(0, 60, 2))
    ]
    return ShardDataset(write_dataset(folder, [samples[:30], samples[30:]]))


def stream(shards, lanes, images=None) -> LaneStream:
    data = Mixture([shards])
    return LaneStream(data, data.order(SEED, LANES, 3, 2, False), lanes, images=images)


def assert_drawn(batch: MoleculeBatch, shards: ShardDataset, step: int | None) -> int:
    """Compare the images of a batch with those of its records one by one; returns how many molecules have none."""
    assert batch.images is not None
    assert batch.has_image is not None
    assert batch.images.dtype == torch.uint8
    assert batch.images.shape == (batch.num_graphs, 3, SIZE, SIZE)
    stored = shards.read_rows(batch.index.numpy(), ("smiles", "key"))
    for k, (smiles, key) in enumerate(zip(stored.values["smiles"], stored.values["key"], strict=True)):
        expected = image_of(smiles, SIZE, PLAIN if step is None else random_view(key, SEED, step))
        assert bool(batch.has_image[k]) == (expected is not None) == (smiles != UNREADABLE)
        found = batch.images[k].numpy()
        assert np.array_equal(found, np.zeros_like(found) if expected is None else expected)
    return int((~batch.has_image).sum())


def test_training_sees_a_view_of_key_seed_and_step(shards):
    lanes = stream(shards, range(LANES), ImageSource(SIZE))
    undrawn = [assert_drawn(batch, shards, step) for step in (0, 4) for batch in lanes.step(step)]
    assert 0 < sum(undrawn) < 2 * LANES * 3


def test_images_do_not_depend_on_processes_and_children(shards):
    alone = [list(stream(shards, range(LANES), ImageSource(SIZE)).step(step)) for step in range(3)]
    with ImageSource(SIZE, workers=2) as source:
        for world_size in (1, 2, 4):
            for rank in range(world_size):
                own = lanes_of_rank(rank, world_size, LANES)
                for step, batches in enumerate(stream(shards, own, source).steps(0, 3, prefetch=2)):
                    for lane, batch in zip(own, batches, strict=True):
                        assert torch.equal(batch.images, alone[step][lane].images)
                        assert torch.equal(batch.has_image, alone[step][lane].has_image)


def test_children_end_with_the_body(shards):
    with ImageSource(SIZE, workers=1) as source:
        source.draw(["CCO"], [PLAIN])
        children = [sandbox.child_pid for sandbox in source._pool._sandboxes]
        assert all(children)
    assert source._pool is None
    assert source.draw(["CCO", UNREADABLE], [PLAIN, View(90.0)])[1].tolist() == [True, False]


def test_validation_sees_the_plain_drawing(shards):
    rounds = ValidationStream(shards, LANES, 8, range(LANES), images=ImageSource(SIZE)).rounds()
    assert sum(assert_drawn(each.molecules, shards, None) for each in next(rounds)) > 0


def test_batches_have_no_images_where_nobody_asks(shards):
    batch = stream(shards, [0]).step(0)[0]
    assert batch.images is None
    assert batch.has_image is None
    assert batch.to("cpu").images is None
    assert "images" not in batch.tensors()
    assert "images" not in batch.to_pyg()
    assert not batch.present("image").any()


def test_batches_carry_their_images_to_devices_and_pyg(shards):
    batch = stream(shards, [0], ImageSource(SIZE)).step(0)[0]
    moved = batch.to("meta")
    assert moved.images.is_meta
    assert moved.has_image.is_meta
    graphs = batch.to_pyg()
    assert graphs.images is batch.images
    for k, one in enumerate(graphs.to_data_list()):
        assert torch.equal(one.images, batch.images[k : k + 1])
        assert one.has_image.tolist() == [bool(batch.has_image[k])]
    assert torch.equal(batch.present("image"), batch.has_image)
    assert torch.equal(batch.present("3d"), batch.has_pos)
    assert batch.present("2d").all()


def test_datasets_have_images_of_the_plain_drawing(shards):
    batches = list(MoleculeDataset(shards.path, batch_size=25, shuffle=True, image_size=SIZE, with_smiles=True))
    assert sum(len(batch.smiles) for batch in batches) == 60
    for batch in batches:
        expected = stacked([image_of(smiles, SIZE) for smiles in batch.smiles], SIZE)
        assert np.array_equal(batch.images, expected[0])
        assert np.array_equal(batch.has_image, expected[1])
    assert "smiles" not in next(iter(MoleculeDataset(shards.path, image_size=SIZE)))
    assert "images" not in next(iter(MoleculeDataset(shards.path, with_smiles=True)))
    with pytest.raises(ConfigError, match="image_size=0: expected at least 1"):
        MoleculeDataset(shards.path, image_size=0)


def test_the_largest_batch_has_images_of_their_size():
    histograms = {"heavy_atoms": {"9": 2, "3": 4}, "elements": {"C": 30}}
    batch = largest_batch(histograms, molecules=3, targets=0, image_size=SIZE)
    assert batch.images.shape == (3, 3, SIZE, SIZE)
    assert batch.has_image.all()
    assert largest_batch(histograms, molecules=3, targets=0).images is None


def test_records_count_the_molecules_that_could_not_be_drawn(shards):
    batches = stream(shards, range(LANES), ImageSource(SIZE)).step(0)
    records = StepRecords(DistributedContext(0, 1, torch.device("cpu")), LANES, 3)
    metrics = [{"loss": torch.tensor(float(lane))} for lane in range(LANES)]
    records.add(1, batches, metrics, seconds=1.0, wait=0.0, common={})
    [record] = records.gather()
    assert record["data/undrawn"] == sum(int((~batch.has_image).sum()) for batch in batches) > 0
    assert record["train/loss"] == 1.5
