"""The child process of the sandbox: the only place of a job where RDKit sees a molecule.

It reads its configuration, then frames of molecules, from stdin and answers on stdout; ``pipeline.sandbox`` is the
other side and says why.
"""

import ctypes
import json
import mmap
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any

import pyarrow as pa

from pipeline.shards.codec import encode
from preprocessing.conformers import ConformerConfig
from preprocessing.featurize import FeaturizeConfig, featurize, standardized
from preprocessing.fields import MoleculeSample, RawMolecule, Rejection
from preprocessing.standardize import StandardizeConfig

_LENGTH = struct.Struct("<Q")


def write_frame(pipe: IO[bytes], data: bytes) -> None:
    """Send one message of any length."""
    pipe.write(_LENGTH.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> bytes:
    """The next message.

    Raises:
        EOFError: the other side has gone.
    """
    header = pipe.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(header)
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data


def featurize_config(record: dict[str, Any]) -> FeaturizeConfig:
    """The configuration from its ``asdict``."""
    nested = {
        "standardize": StandardizeConfig(**record["standardize"]),
        "conformers": ConformerConfig(**record["conformers"]),
    }
    return FeaturizeConfig(**{**record, **nested})


def _keys(raws: Sequence[RawMolecule], config: FeaturizeConfig, at: Callable[[int], None]) -> tuple[list[Any], bytes]:
    answer: list[Any] = []
    for k, raw in enumerate(raws):
        at(k)
        result = standardized(raw, config)
        answer.append(asdict(result) if isinstance(result, Rejection) else result.key)
    return answer, b""


def _samples(
    raws: Sequence[RawMolecule], config: FeaturizeConfig, at: Callable[[int], None]
) -> tuple[list[Any], bytes]:
    rejections: list[Any] = []
    samples: list[MoleculeSample] = []
    for k, raw in enumerate(raws):
        at(k)
        result = featurize(raw, config)
        if isinstance(result, Rejection):
            rejections.append(asdict(result))
        else:
            samples.append(result)
    if not samples:
        return rejections, b""
    batch, sink = encode(samples), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return rejections, sink.getvalue().to_pybytes()


TRIAL = RawMolecule("CCO", "smiles", "trial", 0)
STAGES = {"keys": _keys, "samples": _samples}


def _child(shared: int, memory_mib: int) -> None:
    """Serve frames until the parent closes the pipe or dies."""
    prctl_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(prctl_set_pdeathsig, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    progress = memoryview(mmap.mmap(shared, mmap.PAGESIZE)).cast("q")
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    config = featurize_config(json.loads(read_frame(source)))
    # The first molecule loads tables and shows that the memory suffices at all.
    encode([sample for sample in [featurize(TRIAL, config)] if isinstance(sample, MoleculeSample)])
    # Whatever a library prints must not get between the frames, nor fill a disk.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    write_frame(target, b"")
    with suppress(EOFError):
        while True:
            stage, records = json.loads(read_frame(source))
            raws = [RawMolecule(**{**record, "targets": tuple(record["targets"])}) for record in records]
            answer, data = STAGES[stage](raws, config, lambda k: progress.__setitem__(0, k))
            write_frame(target, json.dumps(answer).encode())
            write_frame(target, data)


if __name__ == "__main__":
    _child(int(sys.argv[1]), int(sys.argv[2]))
