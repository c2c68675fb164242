"""Saving while training goes on: every process writes its share in the background, one rename commits them all.

    begin      every process copies its share of the tensors to the CPU and starts a thread that writes it
    settle     at the end of each step: when no process writes any more, the first one commits

Shares go into a temporary folder and are synced, with their checksums beside them. Committing writes the marker with
all checksums, syncs the folder and renames it: whoever looks sees a whole checkpoint or none, whatever dies when.
"""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from pipeline.files import sync, write_atomically
from preprocessing.errors import CheckpointError
from training.checkpoint import (
    MARKER,
    RunState,
    checkpoints,
    checksums,
    damage,
    drop,
    name_of,
    part_name,
    read_state,
    step_of,
)
from training.processes import Place


@dataclass(frozen=True)
class Retention:
    """Which checkpoints are kept; the newest always is."""

    last: int = 3
    """The newest so many."""
    every: int = 0
    """Those whose step is a multiple of it; 0 for none."""
    best: int = 0
    """Those with the lowest validation losses; 0 for none."""

    def kept(self, folder: Path) -> list[Path]:
        """Of all checkpoints in ``folder``."""
        found = checkpoints(folder)
        kept = set(found[-max(self.last, 1) :])
        if self.every:
            kept |= {path for path in found if step_of(path) % self.every == 0}
        if self.best:
            losses = {path: loss for path in found if (loss := read_state(path).validation_loss) is not None}
            kept |= set(sorted(losses, key=lambda path: losses[path])[: self.best])
        return sorted(kept)


class CheckpointWriter:
    """Writes the checkpoints of a run.

    Args:
        folder: of the run's checkpoints, which all processes see.
        place: this process among those that save together.
        retention: what is kept when a new one is there.
        say: tells people, on the first process.
    """

    def __init__(self, folder: Path, place: Place, retention: Retention, say: Callable[[str], None]):
        self._folder, self._place, self._retention, self._say = folder, place, retention, say
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="molstream-checkpoint")
        self._writing: tuple[int, Future[None]] | None = None
        self._problem: str | None = None
        if place.rank == 0 and folder.is_dir():
            # What processes that died have left; nobody writes yet.
            for stale in folder.glob(".*-step_*"):
                shutil.rmtree(stale)
        place.barrier()

    @property
    def busy(self) -> bool:
        """Whether this process still writes."""
        return self._writing is not None and not self._writing[1].done()

    def begin(self, tensors: dict[str, dict[str, Tensor]], state: RunState, config_yaml: str) -> None:
        """Start to save (collective); waits for the checkpoint before, should it not be written yet.

        Args:
            tensors: this process's share by kind and name, on the CPU; nobody else changes it.
            state: of the run.
            config_yaml: of the run.
        """
        self.wait()
        target = self._folder / name_of(state.step)
        [there] = self._place.anywhere(target.exists() and damage(target) is None)
        if there:
            return
        self._writing = (state.step, self._thread.submit(self._write, tensors, state, config_yaml))

    def settle(self, any_busy: bool) -> None:
        """Commit, if a checkpoint has been written by all processes.

        Args:
            any_busy: whether any process is :attr:`busy`, as all have agreed.
        """
        if self._writing is None or any_busy:
            return
        step, future = self._writing
        self._writing = None
        problem: BaseException | str | None = future.exception()
        [failed] = self._place.anywhere(problem is not None)
        if failed:
            problem = problem or "another process could not write its share"
        elif self._place.rank == 0:
            try:
                self._commit(step)
            except OSError as error:
                problem = error
        self._problem = None
        if problem is not None:
            # Training goes on: the checkpoint before is still there, and the next one may succeed.
            self._problem = f"checkpoint {self._folder / name_of(step)} could not be written: {problem}"
            self._say(self._problem)
            if self._place.rank == 0:
                shutil.rmtree(self._temporary(step), ignore_errors=True)

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is committed, or has failed (collective)."""
        if self._writing is not None:
            _ = self._writing[1].exception()
            self._place.barrier()
            self.settle(any_busy=False)
            self._place.barrier()

    def finish(self) -> None:
        """The end of saving (collective).

        Raises:
            CheckpointError: the last checkpoint could not be written.
        """
        self.wait()
        self._thread.shutdown()
        [failed] = self._place.anywhere(self._problem is not None)
        if failed:
            raise CheckpointError(self._problem or "the first process could not write the last checkpoint.")

    def _temporary(self, step: int) -> Path:
        return self._folder / f".writing-{name_of(step)}"

    def _write(self, tensors: dict[str, dict[str, Tensor]], state: RunState, config_yaml: str) -> None:
        place, folder = self._place, self._temporary(state.step)
        folder.mkdir(parents=True, exist_ok=True)
        files: list[Path] = []
        for kind, part in tensors.items():
            if part:
                files.append(folder / part_name(kind, place.rank, place.world_size))
                save_file(part, files[-1])
        if place.rank == 0:
            for name, text in (
                ("state.json", json.dumps(asdict(state), indent=1) + "\n"),
                ("config.yaml", config_yaml),
            ):
                files.append(folder / name)
                files[-1].write_text(text)
        for file in files:
            sync(file)
        write_atomically(folder / f"part-{place.rank:05d}.json", json.dumps(checksums(files)).encode())

    def _commit(self, step: int) -> None:
        temporary, target = self._temporary(step), self._folder / name_of(step)
        parts = [temporary / f"part-{rank:05d}.json" for rank in range(self._place.world_size)]
        try:
            files = {name: sums for part in parts for name, sums in json.loads(part.read_text()).items()}
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{error.filename} is missing: another process wrote its share, but not here. All processes of a run "
                f"must see the same folder {self._folder}: put run_dir on a file system that the nodes share."
            ) from error
        for part in parts:
            part.unlink()
        write_atomically(temporary / MARKER, (json.dumps(files, indent=1) + "\n").encode())
        if target.exists():
            drop(target)
        temporary.rename(target)
        sync(self._folder)
        self._say(f"saved {target}")
        kept = self._retention.kept(self._folder)
        for path in checkpoints(self._folder):
            if path not in kept:
                drop(path)
