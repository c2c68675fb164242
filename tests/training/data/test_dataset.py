"""The dataset for any PyTorch code: PyG's batches, every molecule once an epoch, in an order that nothing changes."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GINEConv, SchNet, global_add_pool

from molstream.errors import ConfigError, DataError
from molstream.pipeline.order.mixture import Mixture
from molstream.pipeline.shards.codec import SCHEMA, samples
from molstream.pipeline.shards.reader import ShardDataset
from molstream.preprocessing.fields import MoleculeSample
from molstream.training.data.collate import collate_samples
from molstream.training.data.dataset import MoleculeDataset
from molstream.training.data.stream import LaneStream
from tests.support.datasets import REPOSITORY
from tests.support.object_store import serving
from tests.support.samples import write_dataset

TENSORS = ("x", "z", "edge_index", "edge_attr", "pos", "has_pos", "y", "descriptors", "idx", "batch", "ptr")


@pytest.fixture(scope="module")
def stored(dataset: Path) -> list[MoleculeSample]:
    """Every molecule of the dataset, in manifest order."""
    shards = ShardDataset(dataset)
    return samples(shards.read_rows(np.arange(shards.num_rows), SCHEMA.names))


def data_of(sample: MoleculeSample, index: int) -> Data:
    """A molecule as someone who writes plain PyG code would make it."""
    edges = [pair for i, j in sample.bond_index.T.tolist() for pair in ((i, j), (j, i))]
    has_pos = len(sample.positions) > 0
    x = torch.from_numpy(sample.atom_features.astype(np.int64))
    return Data(
        x=x,
        edge_index=torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T.contiguous(),
        edge_attr=torch.from_numpy(np.repeat(sample.bond_features.astype(np.int64), 2, axis=0)),
        pos=torch.from_numpy(sample.positions[0]) if has_pos else torch.zeros(len(x), 3),
        has_pos=torch.tensor([has_pos]),
        y=torch.from_numpy(sample.targets)[None],
        descriptors=torch.from_numpy(sample.descriptors)[None],
        idx=torch.tensor([index]),
        z=x[:, 0] + 1,
        smiles=sample.smiles,
        key=sample.key,
    )


def assert_same(ours: Batch, pyg: Batch) -> None:
    """Equality in every attribute, type and bookkeeping of a batch."""
    assert type(ours) is type(pyg)
    assert set(ours.keys()) == set(pyg.keys())
    for name in ours.keys():  # noqa: SIM118 - PyG's batches do not iterate over names
        if isinstance(pyg[name], torch.Tensor):
            assert ours[name].dtype == pyg[name].dtype, name
            torch.testing.assert_close(ours[name], pyg[name], rtol=0, atol=0, equal_nan=True, msg=name)
        else:
            assert ours[name] == pyg[name], name
    for ours_dict, pyg_dict in ((ours._slice_dict, pyg._slice_dict), (ours._inc_dict, pyg._inc_dict)):
        assert ours_dict.keys() == pyg_dict.keys()
        for name, value in pyg_dict.items():
            assert ours_dict[name] is value is None or torch.equal(ours_dict[name], value), name
    assert ours.num_graphs == pyg.num_graphs == len(ours) == ours.batch_size
    assert ours.num_nodes == pyg.num_nodes
    assert ours.num_edges == pyg.num_edges


def content(batch: Batch) -> dict[str, bytes]:
    return {name: batch[name].numpy().tobytes() for name in TENSORS}


def indices(batches) -> list[list[int]]:
    return [batch.idx.tolist() for batch in batches]


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_are_what_pyg_makes_of_the_same_molecules(dataset, stored, shuffle):
    ours = MoleculeDataset(
        dataset, batch_size=9, shuffle=shuffle, with_smiles=True, with_keys=True, with_descriptors=True
    )
    for batch in ours:
        molecules = [data_of(stored[index], index) for index in batch.idx.tolist()]
        assert_same(batch, Batch.from_data_list(molecules))
        parts = batch.to_data_list()
        assert len(parts) == batch.num_graphs
        assert_same(Batch.from_data_list(parts), batch)
        assert torch.equal(batch[0].x, molecules[0].x)
        assert batch[0].smiles == molecules[0].smiles
        assert [part.key for part in batch[[len(parts) - 1, 0]]] == [molecules[-1].key, molecules[0].key]


def test_single_atoms_missing_conformers_and_missing_targets_are_what_pyg_makes_of_them(stored):
    bare = [
        replace(sample, positions=sample.positions[:0], targets=np.full(2, np.nan, np.float32)) for sample in stored
    ]
    small = sorted(bare, key=lambda sample: sample.num_atoms)[:4]
    for some in (small, small[:1], bare[-3:]):
        texts = {name: [getattr(sample, name) for sample in some] for name in ("smiles", "key")}
        ours = collate_samples(some).to_pyg(**texts)
        assert_same(ours, Batch.from_data_list([data_of(sample, k) for k, sample in enumerate(some)]))
        assert not ours.has_pos.any()
    assert ours.to("cpu").to_data_list()[1].num_nodes == some[1].num_atoms
    with pytest.raises(DataError, match=r"a batch of 2 molecules with \[1, 2\] targets: expected"):
        collate_samples([stored[0], bare[0]])
    with pytest.raises(DataError, match=r"a batch of 2 molecules with \[0, 200\] descriptors: expected"):
        collate_samples([stored[0], replace(stored[0], descriptors=stored[0].descriptors[:0])])


def test_the_order_without_shuffle_is_the_dataset_s_and_with_it_that_of_one_lane(dataset, stored):
    plain = MoleculeDataset(dataset, batch_size=7)
    assert indices(plain) == [list(range(k, min(k + 7, len(stored)))) for k in range(0, len(stored), 7)]
    assert len(plain) == len(list(plain)) == -(-len(stored) // 7)

    data = Mixture([ShardDataset(dataset)])
    order = data.order(3, lanes=1, micro_batch=7, window_blocks=2)
    full = order.steps_per_epoch
    ours = MoleculeDataset(dataset, batch_size=7, shuffle=True, seed=3, window_blocks=2)
    stream = [step[0].index.tolist() for step in LaneStream(data, order, [0]).steps(0, full, 0)]
    assert indices(ours)[:full] == stream


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("num_workers", [1, 2, 5])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_change_nothing_not_even_more_of_them_than_batches(dataset, shuffle, num_workers):
    ours = MoleculeDataset(dataset, batch_size=25, shuffle=shuffle, window_blocks=2)
    ours.set_epoch(2)
    expected = [content(batch) for batch in ours]
    loader = DataLoader(ours, batch_size=None, num_workers=num_workers)
    assert len(loader) == len(expected)
    assert [content(batch) for batch in loader] == expected


def test_batches_keep_their_molecules_on_the_way_from_a_worker(dataset):
    ours = MoleculeDataset(dataset, batch_size=6, with_smiles=True)
    for ours_batch, batch in zip(ours, DataLoader(ours, batch_size=None, num_workers=2), strict=True):
        assert_same(batch, ours_batch)
        assert len(batch.to_data_list()) == batch.num_graphs
        # Every storage costs a descriptor and a connection on the way.
        assert len({batch[name].untyped_storage().data_ptr() for name in TENSORS}) == 1


@pytest.mark.slow
def test_spawned_workers_that_stay_see_every_new_epoch(dataset):
    """In a program of its own, as spawning imports the main module anew."""
    script = f"""
from torch.utils.data import DataLoader
from molstream import MoleculeDataset

if __name__ == "__main__":
    dataset = MoleculeDataset({str(dataset)!r}, batch_size=6, shuffle=True)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=2, persistent_workers=True, multiprocessing_context="spawn"
    )
    orders = []
    for epoch in (0, 1, 1):
        dataset.set_epoch(epoch)
        orders.append([batch.idx.tolist() for batch in loader])
        assert orders[-1] == [batch.idx.tolist() for batch in dataset]
    assert orders[0] != orders[1] == orders[2]
"""
    file = dataset.parent / "spawned.py"
    file.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run([sys.executable, file], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def test_epochs_and_seeds_differ_and_repeat(dataset, stored):
    def order(seed: int, epoch: int) -> list[list[int]]:
        ours = MoleculeDataset(dataset, batch_size=8, shuffle=True, seed=seed)
        ours.set_epoch(epoch)
        assert ours.epoch == epoch
        return indices(ours)

    found = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 5)]
    assert all(sorted(chain.from_iterable(batches)) == list(range(len(stored))) for batches in found)
    assert all(found[a] != found[b] for a in range(6) for b in range(a))
    assert order(1, 5) == found[-1]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [2, 5, 8, 40])
@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_share_an_epoch_in_equally_many_steps(dataset, stored, shuffle, drop_last, batch_size, world_size):
    count = len(stored)
    if drop_last and count < batch_size * world_size:
        with pytest.raises(ConfigError, match="some rank would have no batch"):
            MoleculeDataset(dataset, batch_size=batch_size, drop_last=drop_last, rank=0, world_size=world_size)
        return

    def of(rank: int, world_size: int, batch_size: int) -> list[list[int]]:
        return indices(
            MoleculeDataset(
                dataset,
                batch_size=batch_size,
                shuffle=shuffle,
                drop_last=drop_last,
                rank=rank,
                world_size=world_size,
                window_blocks=2,
            )
        )

    ranks = [of(rank, world_size, batch_size) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    seen = list(chain.from_iterable(chain.from_iterable(ranks)))
    assert len(seen) == len(set(seen))
    assert len(seen) == (count - count % (batch_size * world_size) if drop_last else count)
    sizes = [len(batch) for batches in ranks for batch in batches]
    assert 1 <= min(sizes) <= max(sizes) <= batch_size
    assert not drop_last or min(sizes) == batch_size
    # Whatever the world size, a step takes the same places of the order on all ranks together.
    steps = [chain.from_iterable(batches) for batches in zip(*ranks, strict=True)]
    alone = list(chain.from_iterable(of(0, 1, batch_size * world_size)))
    assert list(chain.from_iterable(steps)) == alone[: len(seen)]


def test_an_epoch_goes_on_in_its_middle(dataset):
    ours = MoleculeDataset(dataset, batch_size=6, shuffle=True)
    ours.set_epoch(3)
    whole = [content(batch) for batch in ours]
    ours.set_epoch(3, first_batch=5)
    assert len(ours) == len(whole) - 5
    assert [content(batch) for batch in ours] == whole[5:]
    assert [content(batch) for batch in DataLoader(ours, batch_size=None, num_workers=2)] == whole[5:]
    ours.set_epoch(3, first_batch=len(whole))
    assert list(ours) == []


def test_conformers_are_drawn_anew_in_every_epoch_or_are_the_first(tmp_path, stored):
    sample = next(sample for sample in stored if len(sample.positions))
    several = replace(sample, positions=np.stack([sample.positions[0] + k for k in range(4)]), forces=sample.forces[:0])
    folder = write_dataset(tmp_path / "several", [[several] * 40], target_names=("value",))

    def conformers(epoch: int, **options) -> list[int]:
        ours = MoleculeDataset(folder, batch_size=40, **options)
        ours.set_epoch(epoch)
        [batch] = ours
        return (batch.pos - torch.from_numpy(sample.positions[0]).repeat(40, 1))[batch.ptr[:-1], 0].round().tolist()

    assert set(conformers(0)) == {0, 1, 2, 3}
    assert conformers(0) == conformers(0)
    assert conformers(0) != conformers(1)
    assert conformers(0) != conformers(0, seed=1)
    assert conformers(1, conformer="first") == [0] * 40


def test_a_dataset_at_a_url_is_the_local_one(dataset, tmp_path):
    options = {"batch_size": 6, "shuffle": True, "window_blocks": 2}
    expected = [content(batch) for batch in MoleculeDataset(dataset, **options)]
    with serving(tmp_path) as store:
        remote = MoleculeDataset(store.put_folder("mine", dataset), cache_dir=tmp_path / "cache", **options)
        for num_workers in (0, 2):
            assert [content(b) for b in DataLoader(remote, batch_size=None, num_workers=num_workers)] == expected
    assert sorted(path.stat().st_size for path in (tmp_path / "cache").iterdir()) == sorted(
        path.stat().st_size for path in dataset.glob("shard-*")
    )


def test_the_transform_sees_every_batch(dataset):
    ours = MoleculeDataset(dataset, batch_size=50, transform=lambda batch: batch.num_graphs)
    assert list(ours) == [50, ours.num_molecules - 50]
    assert list(DataLoader(ours, batch_size=None, num_workers=2)) == [50, ours.num_molecules - 50]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"batch_size=0: expected at least 1"),
        ({"seed": -1}, r"seed=-1: expected at least 0"),
        ({"window_blocks": 0}, r"window_blocks=0: expected at least 1"),
        ({"conformer": "lowest"}, r"conformer='lowest': expected random or first"),
        ({"cache_gib": 0}, r"cache_gib=0: expected a number above 0"),
        ({"rank": 1}, r"rank=1, world_size=None: give both or neither"),
        ({"rank": 2, "world_size": 2}, r"rank=2, world_size=2: expected 0 <= rank < world_size"),
        ({"rank": 0, "world_size": 1000}, r"world_size=1000, .* some rank would have no batch. Lower"),
        ({"batch_size": 1000, "drop_last": True}, r"drop_last=True: some rank would have no batch"),
        ({"batch_size": 1, "rank": 0, "world_size": 7}, r"cannot take the same number of steps"),
    ],
)
def test_impossible_arguments_are_refused(dataset, options, message):
    with pytest.raises(ConfigError, match=rf"MoleculeDataset: .*{message}"):
        MoleculeDataset(dataset, **options)


def test_processes_that_do_not_know_of_each_other_are_refused(dataset, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE=4 .*init_process_group"):
        MoleculeDataset(dataset)
    assert MoleculeDataset(dataset, rank=3, world_size=4).rank == 3


def test_rank_and_world_size_are_those_of_torch_distributed(dataset, tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        ours = MoleculeDataset(dataset)
        assert (ours.rank, ours.world_size) == (0, 1)
    finally:
        torch.distributed.destroy_process_group()


def test_a_dataset_that_is_not_there_or_changes_is_refused(dataset, stored, tmp_path):
    with pytest.raises(DataError, match=str(tmp_path)):
        MoleculeDataset(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    ours = MoleculeDataset(copy)
    with pytest.raises(ConfigError, match=r"set_epoch\(0, first_batch=4\).* from 0 to 3"):
        ours.set_epoch(0, first_batch=4)
    shutil.rmtree(copy)
    write_dataset(copy, [stored], target_names=("value",))
    with pytest.raises(DataError, match=r"copy has changed since the MoleculeDataset was created"):
        list(DataLoader(ours, batch_size=None, num_workers=1))


class GINE(nn.Module):
    """Two layers of PyG's GINE on embedded atoms and bonds."""

    def __init__(self):
        super().__init__()
        self.atom, self.bond = nn.Embedding(119, 32), nn.Embedding(5, 32)
        self.layers = nn.ModuleList(
            GINEConv(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))) for _ in range(2)
        )
        self.head = nn.Linear(32, 1)

    def forward(self, batch: Batch) -> torch.Tensor:
        h, bonds = self.atom(batch.x[:, 0]), self.bond(batch.edge_attr[:, 0])
        for layer in self.layers:
            h = layer(h, batch.edge_index, bonds).relu()
        return self.head(global_add_pool(h, batch.batch))


class PlainSchNet(nn.Module):
    """PyG's SchNet."""

    def __init__(self):
        super().__init__()
        self.schnet = SchNet(32, 32, num_interactions=2, num_gaussians=20, interaction_graph=self.pairs)

    @staticmethod
    def pairs(pos: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All pairs of atoms of a molecule, and their distances: PyG's own radius graph needs a compiled package."""
        edges = ((batch[:, None] == batch) & ~torch.eye(len(batch), dtype=torch.bool)).nonzero().T
        return edges, (pos[edges[0]] - pos[edges[1]]).norm(dim=1)

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.schnet(batch.z, batch.pos, batch.batch)


@pytest.mark.parametrize("model", [GINE, PlainSchNet])
def test_models_of_pyg_learn_from_it(stored, tmp_path, model):
    some = [
        replace(sample, targets=np.array([sample.num_atoms / 5 + sample.bond_features[:, 0].sum() / 3], np.float32))
        for sample in stored[:30]
    ]
    ours = MoleculeDataset(
        write_dataset(tmp_path / "few", [some[:16], some[16:]], target_names=("value",)), batch_size=10, shuffle=True
    )
    torch.manual_seed(0)
    model = model()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for epoch in range(40):
        ours.set_epoch(epoch)
        losses.append(0.0)
        for batch in DataLoader(ours, batch_size=None):
            loss = nn.functional.mse_loss(model(batch), batch.y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1] += loss.item() / len(ours)
    assert losses[-1] < 0.1 * losses[0]
