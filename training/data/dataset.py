"""PyTorch dataset of PyG batches, in an order that does not depend on the number of DataLoader workers."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from molstream.errors import ConfigError, DataError
from molstream.io.remote import is_url
from molstream.pipeline.config import CACHE_FOLDER, CACHE_GIB
from molstream.pipeline.order.lane_reader import LaneReader
from molstream.pipeline.order.lanes import LaneOrder
from molstream.pipeline.shards.cache import ShardCache
from molstream.pipeline.shards.columns import Columns
from molstream.pipeline.shards.reader import ShardDataset
from molstream.preprocessing.drawing import PLAIN
from molstream.training.data.collate import collate, collated_fields
from molstream.training.data.images import image_source
from molstream.training.data.stream import conformer_draw
from molstream.training.data.validation import SequentialReader

if TYPE_CHECKING:
    from torch_geometric.data import Batch

CONFORMERS = ("random", "first")

Read = Callable[[int, int], tuple[Columns, np.ndarray]]
"""Reads the molecules at places [begin, end) of an epoch's order: their fields, and their positions in the dataset."""


class MoleculeDataset(IterableDataset["Batch"]):
    """Batches of molecules that ``molstream preprocess`` wrote, as ``torch_geometric.data.Batch`` objects.

    ::

        dataset = MoleculeDataset("datasets/mine", batch_size=64, shuffle=True)
        loader = DataLoader(dataset, batch_size=None, num_workers=2)
        for epoch in range(10):
            dataset.set_epoch(epoch)
            for batch in loader:
                ...

    The dataset itself builds the batches, so pass ``batch_size=None`` to the ``torch.utils.data`` loader. A batch of g
    molecules, n atoms and e directed bonds (each bond in both directions) has

    - ``x``, int64 [n, 9]: OGB atom features; ``x[:, 0]`` is the atomic number - 1
    - ``z``, int64 [n]: atomic numbers
    - ``edge_index``, int64 [2, e]: the two atoms of every directed bond
    - ``edge_attr``, int64 [e, 3]: OGB bond features
    - ``pos``, float32 [n, 3]: angstrom, centred on each molecule's centroid; zeros where it has no conformer
    - ``has_pos``, bool [g]: whether the molecule has a conformer
    - ``y``, float32 [g, t]: targets, in the order of ``target_names``; NaN where missing
    - ``descriptors``, float32 [g, k]: in the order of ``descriptor_names``, NaN where undefined; k = 0 unless
      ``with_descriptors``
    - ``images``, uint8 [g, 3, s, s], and ``has_image``, bool [g]: drawings, zero for molecules that RDKit cannot draw;
      only with ``image_size``
    - ``idx``, int64 [g]: position of the molecule in the dataset
    - ``batch``, int64 [n]: molecule of each atom; ``ptr``, int64 [g + 1]: first atom of each molecule

    and, if requested, ``smiles`` and ``key``, lists of g strings. ``batch[0]`` and ``batch.to_data_list()`` give single
    molecules as ``torch_geometric.data.Data``.

    **Order.** An epoch shows every molecule exactly once, over all ranks and workers together. Without ``shuffle`` the
    order is that of the dataset. With it, shards are permuted, concatenated, and shuffled within windows of
    ``window_blocks`` blocks: the order of ``molstream pretrain`` with one lane. It is a function of the dataset,
    ``seed``, ``epoch`` and ``window_blocks`` alone. Step s of rank r takes the molecules at the places
    ``[k * batch_size, (k + 1) * batch_size)`` with ``k = s * world_size + r``.

    - The order does not depend on the number of workers: worker w of n builds the batches w, w + n, ... of its rank,
      and the loader takes from the workers in turn.
    - The order does not depend on the world size. With a fixed ``batch_size * world_size``, a step takes the same
      molecules over all ranks, except perhaps in the last two steps of an epoch:
    - Every rank takes the same number of steps, as collective operations require. The molecules that do not fill a
      batch on every rank are distributed evenly over the ranks' last batches (over the last two, if there are fewer
      molecules than ranks), so that batch sizes at the end of an epoch depend on the world size. With ``drop_last``
      they are omitted from that epoch.

    The cost of this order: every worker of every rank reads all shards, whereas in ``molstream pretrain`` each process
    reads its own shards. Building a batch is cheap, so that ``num_workers=0`` is often the fastest; workers help if
    ``transform`` is expensive or the process is busy.

    Args:
        path: folder or URL (``s3://...``, whatever fsspec opens) of a dataset written by ``molstream preprocess``.
        batch_size: number of molecules in a batch, at least 1.
        shuffle: whether to shuffle, differently in each epoch.
        seed: random seed of order and conformers, not negative.
        drop_last: whether to omit, in each epoch, the molecules that do not fill a batch on every rank.
        conformer: ``random`` uses a conformer chosen by seed, epoch and molecule; ``first`` always uses the first.
        with_smiles: whether batches have ``smiles``: canonical isomeric SMILES.
        with_keys: whether batches have ``key``: InChIKeys.
        with_descriptors: whether batches have the dataset's descriptors.
        image_size: height and width s of images in pixels, which an image encoder needs
            (``load_pretrained(...).image_size``); None for batches without images, which take 4 ms per molecule.
        rank, world_size: this process among those that share an epoch. The default is that of ``torch.distributed`` if
            it is initialised, otherwise 0 and 1.
        transform: called with each batch; its result is yielded. With spawned workers it must be picklable.
        window_blocks: number of blocks (of 512 molecules by default) that are shuffled together; each worker keeps
            them in memory.
        cache_dir: folder for copies of the shards of a URL, shared by the processes of a machine.
        cache_gib: size of the cache in GiB; above it, the least recently used copies are removed.

    Attributes:
        num_molecules: number of molecules in the dataset.
        target_names: names of the t targets.
        descriptor_names: names of the dataset's descriptors; empty if it has none.

    Raises:
        ConfigError: an argument is out of range, or there are too few molecules to give every rank a batch.
        DataError: ``path`` has no dataset, or the dataset is damaged or of another version.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        conformer: str = "random",
        with_smiles: bool = False,
        with_keys: bool = False,
        with_descriptors: bool = False,
        image_size: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        transform: "Callable[[Batch], Any] | None" = None,
        window_blocks: int = 32,
        cache_dir: str | Path = CACHE_FOLDER,
        cache_gib: float = CACHE_GIB,
    ):
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("window_blocks", window_blocks, 1),
            ("image_size", 1 if image_size is None else image_size, 1),
        ):
            if value < least:
                raise ConfigError(f"MoleculeDataset: {name}={value}: expected at least {least}.")
        if conformer not in CONFORMERS:
            raise ConfigError(f"MoleculeDataset: conformer={conformer!r}: expected {' or '.join(CONFORMERS)}.")
        if cache_gib <= 0:
            raise ConfigError(f"MoleculeDataset: cache_gib={cache_gib}: expected a number above 0.")
        self.path, self.batch_size, self.shuffle, self.seed = str(path), batch_size, shuffle, seed
        self.drop_last, self.conformer, self.transform, self.window_blocks = (
            drop_last,
            conformer,
            transform,
            window_blocks,
        )
        self.rank, self.world_size = _rank_and_world_size(rank, world_size)
        self._strings = (("smiles",) if with_smiles else ()) + (("key",) if with_keys else ())
        self._images = image_source(image_size)
        drawn = ("smiles",) if self._images and not with_smiles else ()
        required = ("targets", *(("descriptors",) if with_descriptors else ()))
        self._fields = (*collated_fields(required), *self._strings, *drawn)
        self._cache = str(cache_dir), int(cache_gib * 2**30)
        self._fingerprint: str | None = None
        self._opened: tuple[int, ShardDataset] | None = None
        manifest = self._shards().manifest
        self._fingerprint = manifest.fingerprint
        self.num_molecules: int = manifest.num_rows
        self.target_names: tuple[str, ...] = manifest.target_names
        self.descriptor_names: tuple[str, ...] = manifest.descriptor_names
        self._full_steps, self._num_steps = self._count_steps()
        # In shared memory, so that workers that outlive an epoch (persistent_workers=True) see the next epoch's number.
        self._epoch_and_first = torch.zeros(2, dtype=torch.long).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch of the next iteration, from 0."""
        return int(self._epoch_and_first[0])

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Set the epoch of the next iteration, as in ``torch.utils.data.DistributedSampler``.

        Without a call, every iteration repeats epoch 0.

        Args:
            epoch: not negative.
            first_batch: number of this rank's batches to skip at the beginning, to resume after an interruption;
                skipped batches are not read.

        Raises:
            ConfigError: one of the numbers is negative, or the epoch has fewer batches.
        """
        if epoch < 0 or not 0 <= first_batch <= self._num_steps:
            raise ConfigError(
                f"MoleculeDataset: set_epoch({epoch}, first_batch={first_batch}): expected an epoch of at least 0, and "
                f"a first batch from 0 to {self._num_steps}, the number of batches of an epoch."
            )
        self._epoch_and_first.copy_(torch.tensor([epoch, first_batch]))

    def __len__(self) -> int:
        """Number of batches that the next iteration yields on this rank, over all workers."""
        return self._num_steps - int(self._epoch_and_first[1])

    def __iter__(self) -> "Iterator[Batch]":
        """Yield the batches of this rank, or those that this DataLoader worker builds.

        Raises:
            DataError: a shard is missing, damaged, or cannot be downloaded.
        """
        epoch, first = self._epoch_and_first.tolist()
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        steps = range(first + number, self._num_steps, count)
        interrupt = threading.Event()
        try:
            read = self._in_shuffled_order(epoch, steps, interrupt) if self.shuffle else self._in_stored_order()
            for step in steps:
                batch = self._batch(epoch, *read(*self._places(step)))
                if worker is not None:
                    _pack(batch)
                yield batch if self.transform is None else self.transform(batch)
        finally:
            interrupt.set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _shards(self) -> ShardDataset:
        """The dataset, reopened after a fork, which locks and connections do not survive."""
        if self._opened is None or self._opened[0] != os.getpid():
            cache = ShardCache(*self._cache) if is_url(self.path) else None
            shards = ShardDataset(self.path, cache)
            if self._fingerprint not in (None, shards.manifest.fingerprint):
                raise DataError(
                    f"{shards.path} has changed since the MoleculeDataset was created: its fingerprint is "
                    f"{shards.manifest.fingerprint[:12]}, expected {self._fingerprint[:12]}. Create a new "
                    "MoleculeDataset."
                )
            self._opened = os.getpid(), shards
        return self._opened[1]

    def _count_steps(self) -> tuple[int, int]:
        """Number of steps of an epoch with a full batch on every rank, and number of all steps."""
        of_a_step = self.batch_size * self.world_size
        full, rest = divmod(self.num_molecules, of_a_step)
        where = (
            f"MoleculeDataset: {self.path} has {self.num_molecules} molecules, batch_size={self.batch_size}, "
            f"world_size={self.world_size}, drop_last={self.drop_last}"
        )
        if self.num_molecules < (of_a_step if self.drop_last else self.world_size):
            advice = "Lower batch_size or world_size, or add molecules."
            raise ConfigError(f"{where}: some rank would have no batch. {advice}")
        if self.drop_last or rest == 0:
            return full, full
        if rest >= self.world_size:
            return full, full + 1
        if self.batch_size == 1:
            raise ConfigError(
                f"{where}: the ranks cannot take the same number of steps. Raise batch_size, or set drop_last=True."
            )
        return full - 1, full + 1

    def _places(self, step: int) -> tuple[int, int]:
        """The places [begin, end) in the epoch's order of this rank's batch in a step."""
        number, num_full = step * self.world_size + self.rank, self._full_steps * self.world_size
        if step < self._full_steps:
            return number * self.batch_size, (number + 1) * self.batch_size
        begin, parts = num_full * self.batch_size, self._num_steps * self.world_size - num_full
        first, last = ((number - num_full + k) * (self.num_molecules - begin) // parts for k in (0, 1))
        return begin + first, begin + last

    def _in_stored_order(self) -> Read:
        reader = SequentialReader(self._shards(), self._fields)

        def read(begin: int, end: int) -> tuple[Columns, np.ndarray]:
            index = np.arange(begin, end)
            return reader.read(index), index

        return read

    def _in_shuffled_order(self, epoch: int, steps: range, interrupt: threading.Event) -> Read:
        shards = self._shards()
        order = LaneOrder(shards.block_rows, self.seed, lanes=1, micro_batch=1, window_blocks=self.window_blocks)
        reader = LaneReader(shards, order, 0, self._fields, None, interrupt)
        first = epoch * self.num_molecules
        if steps:
            reader.expect(first + self._places(steps[0])[0])

        def read(begin: int, end: int) -> tuple[Columns, np.ndarray]:
            runs = reader.read(first + begin, first + end)
            return Columns.concat([run.columns for run in runs]), np.concatenate([run.index for run in runs])

        return read

    def _batch(self, epoch: int, columns: Columns, index: np.ndarray) -> "Batch":
        first = np.zeros(len(index), np.uint64)
        draw = first if self.conformer == "first" else conformer_draw(self.seed, epoch, index)
        smiles = columns.values["smiles"].tolist() if self._images else []
        images = self._images and self._images.draw(smiles, [PLAIN] * len(smiles))
        return collate(columns, index, draw, images).to_pyg(
            **{name: columns.values[name].tolist() for name in self._strings}
        )


def _pack(batch: "Batch") -> None:
    """Move all tensors of a batch into one storage, before a worker sends it.

    Each storage needs its own file descriptor and connection, which would be most of the cost of a batch.
    """
    inside: Any = batch  # PyG declares none of these attributes
    holders: list[Any] = [inside.stores[0], inside._slice_dict, inside._inc_dict]
    tensors = {id(value): value for holder in holders for value in holder.values() if isinstance(value, torch.Tensor)}
    # The widest types first, so that every tensor is aligned.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    chunks = [tensor.flatten().view(torch.uint8) for _, tensor in ordered]
    packed = {
        key: part.view(tensor.dtype).view(tensor.shape)
        for (key, tensor), part in zip(ordered, torch.cat(chunks).split([len(c) for c in chunks]), strict=True)
    }
    for holder in holders:
        for name, value in list(holder.items()):
            if isinstance(value, torch.Tensor):
                holder[name] = packed[id(value)]


def _rank_and_world_size(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return the given rank and world size, or those of ``torch.distributed``.

    Raises:
        ConfigError: only one is given, they contradict each other, or a launcher started several processes and
            ``torch.distributed`` is not initialised.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError(f"MoleculeDataset: rank={rank}, world_size={world_size}: give both or neither.")
    if rank is None or world_size is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        started = os.environ.get("WORLD_SIZE", "1")
        if started != "1":
            # Otherwise every process would be rank 0 of 1 and take the same batches.
            raise ConfigError(
                f"MoleculeDataset: WORLD_SIZE={started} in the environment, but torch.distributed is not initialised. "
                "Call torch.distributed.init_process_group() first, or give rank and world_size."
            )
        return 0, 1
    if not 0 <= rank < world_size:
        raise ConfigError(f"MoleculeDataset: rank={rank}, world_size={world_size}: expected 0 <= rank < world_size.")
    return rank, world_size
