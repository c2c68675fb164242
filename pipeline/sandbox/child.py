"""The child process of the sandbox: the only place of a job where RDKit sees a molecule.

It reads its settings, then frames of molecules, from stdin and answers on stdout. ``sandbox/parent.py`` is the other
side, and gives the reasons.
"""

import ctypes
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rdkit import Chem, rdBase

from molstream.pipeline.sandbox.protocol import (
    Answer,
    Request,
    Settings,
    batch_of_images,
    read_frame,
    read_request,
    write_answer,
    write_frame,
)
from molstream.pipeline.shards.codec import decode, encode
from molstream.pipeline.stages.described import EMBEDDED_SCHEMA, SECONDS, encode_described
from molstream.preprocessing.draw import draw
from molstream.preprocessing.drawing import View, image_of
from molstream.preprocessing.featurize import Description, add_conformers, describe, featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection
from molstream.preprocessing.scaffold import murcko_scaffold


def _describe(request: Request, settings: Settings, at: Callable[[int], None]) -> Answer:
    rejections: list[dict[str, Any]] = []
    found: list[Description] = []
    scaffolds: list[str] = []
    seconds: list[float] = []
    for k, (*record, targets) in enumerate(request.records):
        at(k)
        start = time.process_time()
        result = describe(RawMolecule(*record, targets=tuple(targets)), settings.featurize)
        if isinstance(result, Rejection):
            rejections.append(asdict(result))
            continue
        scaffolds.append(_scaffold(result.sample.smiles) if settings.scaffolds else "")
        found.append(result)
        seconds.append(time.process_time() - start)
    return Answer(rejections, encode_described(found, scaffolds, seconds) if found else None)


def _scaffold(smiles: str) -> str:
    """The Murcko scaffold; empty if RDKit fails on it, as on exotic bonds, which no benchmark set has."""
    try:
        with rdBase.BlockLogs():
            return murcko_scaffold(Chem.MolFromSmiles(smiles))
    except (RuntimeError, ValueError, TypeError):
        return ""


def _embed(request: Request, settings: Settings, at: Callable[[int], None]) -> Answer:
    assert request.batch is not None
    rejections: list[dict[str, Any]] = []
    samples: list[MoleculeSample] = []
    seconds: list[float] = []
    for k, sample in enumerate(decode(request.batch)):
        at(k)
        start = time.process_time()
        result = add_conformers(sample, settings.featurize, sample.smiles)
        if isinstance(result, Rejection):
            rejections.append(asdict(result))
        else:
            samples.append(result)
            seconds.append(time.process_time() - start)
    if not samples:
        return Answer(rejections)
    columns = [*encode(samples).columns, pa.array(seconds, SECONDS.type)]
    return Answer(rejections, pa.record_batch(columns, schema=EMBEDDED_SCHEMA))


def _featurize(request: Request, settings: Settings, at: Callable[[int], None]) -> Answer:
    rejections: list[dict[str, Any]] = []
    samples: list[MoleculeSample] = []
    for k, (*record, targets) in enumerate(request.records):
        at(k)
        result = featurize(RawMolecule(*record, targets=tuple(targets)), settings.featurize, with_key=settings.keys)
        if isinstance(result, Rejection):
            rejections.append(asdict(result))
        else:
            samples.append(result)
    return Answer(rejections, encode(samples) if samples else None)


def _draw(request: Request, settings: Settings, at: Callable[[int], None]) -> Answer:
    drawings: list[str | None] = []
    for k, smiles in enumerate(request.records):
        at(k)
        drawings.append(draw(smiles))
    return Answer([], values=tuple(drawings))


def _image(request: Request, settings: Settings, at: Callable[[int], None]) -> Answer:
    images: list[np.ndarray | None] = []
    for k, (smiles, size, *view) in enumerate(request.records):
        at(k)
        images.append(image_of(smiles, size, View(*view)))
    return Answer([], batch_of_images(images))


TRIAL = RawMolecule("CCO", "smiles", "trial", 0)
STAGES = {"describe": _describe, "embed": _embed, "featurize": _featurize, "draw": _draw, "image": _image}


def _child(shared: int, memory_mib: int) -> None:
    """Serve frames until the parent closes the pipe or dies."""
    prctl_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(prctl_set_pdeathsig, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    progress = memoryview(mmap.mmap(shared, mmap.PAGESIZE)).cast("q")
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # If the machine runs out of memory, the system shall kill this process, not the worker that watches it.
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    settings = Settings.from_json(read_frame(source))
    # The first molecule loads tables and shows that the memory suffices.
    encode([sample for sample in [featurize(TRIAL, settings.featurize)] if isinstance(sample, MoleculeSample)])
    # What a library prints must not get between the frames, nor fill a disk.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    write_frame(target, b"")
    with suppress(EOFError):
        while True:
            request = read_request(source)
            write_answer(target, STAGES[request.stage](request, settings, lambda k: progress.__setitem__(0, k)))


if __name__ == "__main__":
    _child(int(sys.argv[1]), int(sys.argv[2]))
