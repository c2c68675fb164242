"""Writes checkpoints in the background, while training continues.

    begin      each process starts a thread that writes its part of the tensors
    settle     at the end of each step: once no process is writing, the first process commits the checkpoint

Each process syncs its files and writes their checksums beside them. The commit writes the marker with all checksums, so
that a reader sees a complete checkpoint or none, whichever process dies at whatever time
(:mod:`~molstream.training.checkpoint.store`).
"""

import json
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from molstream.errors import CheckpointError, DataError
from molstream.io.files import sync, write_atomically
from molstream.io.reading import parse_json
from molstream.training.checkpoint.format import RunState, checksums, name_of, part_name, state_from, write_safetensors
from molstream.training.checkpoint.store import CheckpointStore
from molstream.training.distributed.context import DistributedContext
from molstream.training.distributed.watchdog import describe_process

AGAIN = "The next checkpoint is written anew."


@dataclass(frozen=True)
class Retention:
    """Which checkpoints are kept. The newest one is always kept."""

    last: int = 3
    """Number of newest checkpoints to keep."""
    every: int = 0
    """Keep checkpoints whose step is a multiple of this; 0 disables."""
    best: int = 0
    """Number of checkpoints with the lowest validation losses to keep; 0 disables."""

    def kept(self, store: CheckpointStore) -> set[int]:
        """Steps of the checkpoints in ``store`` that are kept."""
        found = store.steps()
        kept = set(found[-max(self.last, 1) :])
        if self.every:
            kept |= {step for step in found if step % self.every == 0}
        if self.best:
            losses = {step: _validation_loss(store, step) for step in found}
            judged = sorted((loss, step) for step, loss in losses.items() if loss is not None)
            kept |= {step for _, step in judged[: self.best]}
        return kept


def _validation_loss(store: CheckpointStore, step: int) -> float | None:
    """Validation loss of a checkpoint; None without one, or if the checkpoint is damaged, which a resume reports."""
    try:
        return state_from(store.read(step, "state.json"), store.where).validation_loss
    except (OSError, CheckpointError):
        return None


class CheckpointWriter:
    """Writes the checkpoints of a run (the constructor is collective).

    Args:
        store: where all processes write the checkpoints.
        context: this process among its peers.
        retention: which older checkpoints are kept after a commit.
        say: called on the first process with messages for the user.
        done: step of the intact checkpoint that training resumes from; 0 if there is none.
    """

    def __init__(
        self,
        store: CheckpointStore,
        context: DistributedContext,
        retention: Retention,
        say: Callable[[str], None],
        done: int,
    ):
        self._store, self._context, self._retention, self._say = store, context, retention, say
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="molstream-checkpoint")
        self._writing: tuple[int, Future[None]] | None = None
        self._problem: str | None = None
        self._newest = done
        if context.rank == 0:
            store.clean(done)
        context.barrier()

    @property
    def busy(self) -> bool:
        """Whether this process is still writing."""
        return self._writing is not None and not self._writing[1].done()

    def begin(self, tensors: dict[str, dict[str, Tensor]], state: RunState, config_yaml: str) -> None:
        """Start to write a checkpoint (collective). Waits until the previous one is committed.

        Args:
            tensors: the tensors that this process writes, by kind and name, on the CPU; must not change afterwards.
            state: state of the run, which the first process writes.
            config_yaml: configuration of the run, which the first process writes.
        """
        self.wait()
        if state.step == self._newest:
            return
        self._writing = (state.step, self._thread.submit(self._write, tensors, state, config_yaml))

    def settle(self, any_busy: bool) -> None:
        """Commit the checkpoint if all processes have written their parts (collective unless ``any_busy``).

        A checkpoint that cannot be written is reported, and training continues.

        Args:
            any_busy: whether any process is :attr:`busy`, the same value on all processes.
        """
        if self._writing is None or any_busy:
            return
        step, future = self._writing
        self._writing = None
        problem: BaseException | str | None = future.exception()
        [failed] = self._context.any_rank(problem is not None)
        if failed:
            problem = problem or "another process could not write its part, and printed why"
        elif self._context.rank == 0:
            try:
                self._commit(step)
            except (OSError, DataError, CheckpointError) as error:
                problem = error
        self._problem, self._newest = None, step
        if problem is not None:
            # The previous checkpoint still exists, and the next one may succeed.
            why = str(problem).removesuffix(".")
            self._problem = f"checkpoint {self._store.where}/{name_of(step)} could not be written: {why}"
            self._say(f"{self._problem}. Earlier checkpoints are kept, and training continues")
            if future.exception() and self._context.rank > 0:
                # The first process does not know the reason.
                print(f"{describe_process(self._context)}: {self._problem}", file=sys.stderr, flush=True)
            if self._context.rank == 0:
                with suppress(OSError, DataError):
                    self._store.discard(step)

    def wait(self) -> None:
        """Wait until the current checkpoint is committed or has failed (collective)."""
        if self._writing is not None:
            _ = self._writing[1].exception()
            self._context.barrier()
            self.settle(any_busy=False)
            self._context.barrier()

    def finish(self) -> None:
        """Finish the last checkpoint and stop the thread (collective).

        Raises:
            CheckpointError: the last checkpoint could not be written.
        """
        self.wait()
        self._thread.shutdown()
        [failed] = self._context.any_rank(self._problem is not None)
        if failed:
            problem = self._problem or "the first process could not write the last checkpoint"
            raise CheckpointError(
                f"{problem}. Fix this and run the same command again to resume from the newest checkpoint."
            )

    def _write(self, tensors: dict[str, dict[str, Tensor]], state: RunState, config_yaml: str) -> None:
        context, folder = self._context, self._store.staging(state.step)
        files: list[Path] = []
        for kind, part in tensors.items():
            # A file of every process, even without tensors: a reader can tell that one is missing.
            if part or kind == "weights":
                files.append(folder / part_name(kind, context.rank, context.world_size))
                write_safetensors(files[-1], part)
        if context.rank == 0:
            texts = {"state.json": json.dumps(asdict(state), indent=1) + "\n", "config.yaml": config_yaml}
            for name, text in texts.items():
                files.append(folder / name)
                files[-1].write_text(text, "utf-8")
        for file in files:
            sync(file)
        write_atomically(folder / _sums_name(context.rank), json.dumps(checksums(files)).encode())
        self._store.publish(state.step)

    def _commit(self, step: int) -> None:
        names = [_sums_name(rank) for rank in range(self._context.world_size)]
        try:
            parts = [parse_json(self._store.read(step, name), name, dict, AGAIN, CheckpointError) for name in names]
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{error.filename} is missing: another process wrote its part to a folder that this process does not "
                f"see. All processes of a run must share the folder {self._store.where}: put run_dir on a shared file "
                "system, or set checkpoint_url."
            ) from error
        files = {name: sums for part in parts for name, sums in part.items()}
        self._store.commit(step, (json.dumps(files, indent=1) + "\n").encode())
        self._say(f"saved {self._store.where}/{name_of(step)}")
        kept = self._retention.kept(self._store)
        for old in self._store.steps():
            if old not in kept:
                self._store.drop(old)


def _sums_name(rank: int) -> str:
    """Name of the file with the checksums of one process's files."""
    return f"part-{rank:05d}.json"
