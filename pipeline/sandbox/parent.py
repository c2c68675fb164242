"""RDKit in a child process: a molecule that hangs, exhausts the memory or crashes RDKit's C++ is rejected alone.

The child takes frames of molecules through a pipe and answers with Arrow bytes, at hardly any cost. It writes the
number of its current molecule into shared memory; the parent kills it when that molecule has used more CPU time than
the deadline. A molecule is rejected only after it failed alone in a fresh child, since a kill from outside is no fault
of a molecule.
"""

import mmap
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from molstream.config import PACKAGE
from molstream.errors import DataError
from molstream.pipeline.config import SandboxConfig
from molstream.pipeline.sandbox.protocol import (
    Answer,
    Frame,
    Request,
    Settings,
    images_in,
    read_answer,
    read_frame,
    write_frame,
    write_request,
)
from molstream.pipeline.shards.codec import decode
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.drawing import View
from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection

FRAME = 64
"""Molecules per frame: enough to make the cost of the pipe negligible, few enough to repeat after a death."""

POLL_S = 0.1
WALL_FACTOR = 20
"""Limit on the wall time of a molecule, in deadlines: a backstop for a child that sleeps for ever."""

STARTS = 3
"""Attempts to start a child; one that is killed from outside while it starts is no reason to give up."""

IDLE = -1
"""Value in the shared memory before the first molecule of a frame."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class _Death:
    """Why a child ended before it answered, and the position in the frame that it was working on."""

    position: int
    reason: str
    detail: str
    seconds: float


class Sandbox:
    """A child process that does the chemistry of raw molecules; a context manager.

    Args:
        config: limits on a molecule.
        featurize: how a molecule becomes a record.
        scaffolds: whether descriptions carry the Murcko scaffold.
        keys: whether featurized molecules have a key where no conformer depends on it.
    """

    def __init__(self, config: SandboxConfig, featurize: FeaturizeConfig, scaffolds: bool = False, keys: bool = True):
        self._config, self._settings = config, Settings(featurize, scaffolds, keys)
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *exception: object) -> None:
        self._kill()

    def start(self) -> None:
        """Start the child, if there is none: the first molecule does not wait for it.

        Raises:
            DataError: no child starts.
        """
        self._child = self._child or self._start()

    def describe(self, molecules: Sequence[RawMolecule]) -> tuple[list[pa.RecordBatch], list[Rejection]]:
        """``describe`` of every molecule: batches of DESCRIBED_SCHEMA and rejections."""
        records = [[m.text, m.format, m.source, m.row, m.targets] for m in molecules]
        places = tuple((m.source, m.row, m.text) for m in molecules)
        return self._all(Frame(Request("describe", records), places))

    def embed(self, batch: pa.RecordBatch) -> tuple[list[pa.RecordBatch], list[Rejection]]:
        """``add_conformers`` of every record: batches of EMBEDDED_SCHEMA and rejections.

        The text of a rejection is the SMILES of the record.
        """
        columns = (batch.column(name).to_pylist() for name in ("source", "row", "smiles"))
        return self._all(Frame(Request("embed", [], batch), tuple(zip(*columns))))

    def featurize(self, molecules: Sequence[RawMolecule]) -> list[MoleculeSample | Rejection]:
        """``featurize`` of every molecule, in their order; both stages together have one deadline."""
        # Numbered, since the rows of records need not differ.
        records = [[m.text, m.format, m.source, k, m.targets] for k, m in enumerate(molecules)]
        places = tuple((m.source, k, m.text) for k, m in enumerate(molecules))
        batches, rejections = self._all(Frame(Request("featurize", records), places))
        results = [*rejections, *(sample for batch in batches for sample in decode(batch))]
        results.sort(key=lambda result: result.row)
        return [replace(result, row=raw.row) for result, raw in zip(results, molecules, strict=True)]

    def draw(self, smiles: Sequence[str]) -> list[str | None]:
        """:func:`~molstream.preprocessing.draw.draw` of every molecule: SVG, None where RDKit cannot."""
        frame = Frame(Request("draw", list(smiles)), tuple(("", row, text) for row, text in enumerate(smiles)))
        parts = (answer.values or [None] * len(answer.rejections) for answer in self._answers(frame))
        return [drawing for part in parts for drawing in part]

    def images(self, drawings: Sequence[tuple[str, View]], size: int) -> list[np.ndarray | None]:
        """:func:`~molstream.preprocessing.drawing.image_of` of SMILES in a view: uint8 [3, size, size], or None."""
        records = [[smiles, size, *astuple(view)] for smiles, view in drawings]
        frame = Frame(Request("image", records), tuple(("", row, smiles) for row, (smiles, _) in enumerate(drawings)))
        answers = self._answers(frame)
        parts = ([None] * len(a.rejections) if a.batch is None else images_in(a.batch, size) for a in answers)
        return [image for part in parts for image in part]

    def stop(self) -> None:
        """End the child for good; whoever waits for it in another thread gets a DataError."""
        self._stopped = True
        if (child := self._child) is not None:
            child.kill()

    @property
    def child_pid(self) -> int | None:
        """Process id of the living child, if there is one."""
        return self._child.pid if self._child else None

    def _all(self, molecules: Frame) -> tuple[list[pa.RecordBatch], list[Rejection]]:
        """Batches and rejections of any number of molecules."""
        answers = self._answers(molecules)
        batches = [answer.batch for answer in answers if answer.batch is not None]
        return batches, [Rejection(**rejection) for answer in answers for rejection in answer.rejections]

    def _answers(self, molecules: Frame) -> list[Answer]:
        """Answers that together cover any number of molecules, sent in frames of FRAME."""
        starts = range(0, len(molecules.places), FRAME)
        return [answer for start in starts for answer in self._run(molecules.part(start, start + FRAME))]

    def _run(self, frame: Frame) -> list[Answer]:
        """Answers that together cover the frame; after a death the parts before and behind the culprit are repeated."""
        if not frame.places:
            return []
        try:
            outcome = self._attempt(frame)
        except BaseException:
            # The answer to an interrupted frame must not be read as that to the next one.
            self._kill()
            raise
        if not isinstance(outcome, _Death):
            return [outcome]
        k = outcome.position
        return [
            *self._run(frame.part(0, k)),
            self._alone(frame.part(k, k + 1)),
            *self._run(frame.part(k + 1, len(frame.places))),
        ]

    def _alone(self, frame: Frame) -> Answer:
        """The answer of a fresh child to a frame of one molecule: a rejection if that child ends too."""
        self._kill()
        outcome = self._attempt(frame)
        if not isinstance(outcome, _Death):
            return outcome
        return Answer([asdict(Rejection(*frame.places[0], "sandbox", outcome.reason, outcome.detail, outcome.seconds))])

    def _attempt(self, frame: Frame) -> Answer | _Death:
        child = self._child or self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        self._progress[0] = IDLE
        try:
            write_request(child.stdin, frame.request)
        except BrokenPipeError:
            return self._death("worker_died", 0.0)
        if death := self._watch(child):
            return death
        try:
            return read_answer(child.stdout)
        except EOFError:
            return self._death("worker_died", 0.0)

    def _watch(self, child: subprocess.Popen[bytes]) -> _Death | None:
        """Wait until the child begins to answer, or kill it when a molecule has passed its deadline."""
        position, cpu, wall = IDLE, _cpu_seconds(child.pid), time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
            while not selector.select(POLL_S):
                now = self._progress[0]
                if now != position:
                    position, cpu, wall = now, _cpu_seconds(child.pid), time.monotonic()
                used = _cpu_seconds(child.pid) - cpu
                deadline = self._config.deadline_s
                if used > deadline or time.monotonic() - wall > WALL_FACTOR * deadline:
                    return self._death("deadline", used)
        return None

    def _death(self, reason: str, seconds: float) -> _Death:
        assert self._child is not None
        position = max(self._progress[0], 0)
        code = None if reason == "deadline" else self._child.wait()
        self._kill()
        if reason == "deadline":
            detail = f"more than {self._config.deadline_s:g} s of CPU time"
        elif code is not None and code < 0:
            detail = f"the chemistry process died of {signal.Signals(-code).name}"
        else:
            detail = f"the chemistry process ended with code {code}, out of {self._config.memory_mib} MiB or by a crash"
        return _Death(position, reason, detail, seconds)

    def _start(self) -> subprocess.Popen[bytes]:
        """Start a child, and wait until it has featurized a first molecule.

        Raises:
            DataError: no child starts, which is no fault of any molecule.
        """
        failure = ""
        for _ in range(STARTS):
            if self._stopped:
                raise DataError("the chemistry process was stopped")
            with tempfile.TemporaryFile() as errors:
                self._child = child = self._spawn(errors)
                if self._stopped:
                    child.kill()
                assert child.stdin is not None
                assert child.stdout is not None
                with suppress(BrokenPipeError, EOFError):
                    write_frame(child.stdin, self._settings.to_json())
                    read_frame(child.stdout)
                    return child
                code = child.wait()
                self._kill()
                errors.seek(0)
                last = errors.read().decode(errors="replace").strip().rsplit("\n", 1)[-1]
                failure = f"exit code {code}, {last or 'no message'}"
        raise DataError(
            f"the chemistry process does not start ({failure}). It may use "
            f"sandbox.memory_mib={self._config.memory_mib} of address space: try more."
        )

    def _spawn(self, errors: IO[bytes]) -> subprocess.Popen[bytes]:
        shared = os.memfd_create("molstream-progress")
        os.ftruncate(shared, mmap.PAGESIZE)
        self._memory = mmap.mmap(shared, mmap.PAGESIZE)
        self._progress = memoryview(self._memory).cast("q")
        root = str(PACKAGE.parent)
        paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        child = subprocess.Popen(
            [sys.executable, "-m", "molstream.pipeline.sandbox.child", str(shared), str(self._config.memory_mib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=[shared],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )
        os.close(shared)
        return child

    def _kill(self) -> None:
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        self._child = None


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process, 0 if it has ended; fields 14 and 15 of its stat, behind its bracketed name."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS
