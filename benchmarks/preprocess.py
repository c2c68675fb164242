"""Compares molstream's Ray job with a plain RDKit loop and with datamol, for the same molecules and chemistry.

The plain loop calls `featurize` in one process and writes a shard, without child processes, stages or duplicates. The
job is compared with such loops on all of its cores: 1.0 means that Ray, sandbox and stages cost nothing.
`datamol.parallelized` distributes the same calls over as many processes as the job has cores. All take turns.

    pip install datamol
    python benchmarks/preprocess.py [FILE.smi[.gz|.bz2|.xz]] [--conformers one|none] [--molecules N] [--pairs N]
"""

import argparse
import bz2
import functools
import gzip
import itertools
import lzma
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import datamol

from molstream.pipeline.shards.codec import encode
from molstream.pipeline.shards.writer import write_shard
from molstream.preprocessing.config import ConformerConfig, FeaturizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection

REPOSITORY = Path(__file__).resolve().parent.parent
ZINC = REPOSITORY.parent / "shared" / "data" / "pretrain_smiles" / "zinc250k.smiles.xz"
OPEN = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
MOLECULES = {"one": 4_000, "none": 50_000}
"""Number of molecules by conformers: a measurement takes a minute or more on two cores."""
BLOCK_ROWS = 256
ROWS_PER_SHARD = 2048
SPLITS_PER_CORE = 32
"""Number of splits per core, so that all cores end at about the same time; a real job has thousands."""
LOOK_S = 1.0
"""Seconds between two measurements of a job's memory."""


def read_smiles(file: Path, count: int) -> list[RawMolecule]:
    """Read the first ``count`` molecules of a file with a SMILES at the start of each line."""
    with OPEN.get(file.suffix, open)(file, "rt") as lines:
        words = (line.split() for line in lines)
        texts = itertools.islice((word[0] for word in words if word), count)
        return [RawMolecule(text, "smiles", file.name, row) for row, text in enumerate(texts)]


def write(results: Iterable[MoleculeSample | Rejection], folder: Path) -> None:
    """Write the molecules that were not rejected as a shard."""
    samples = (result for result in results if isinstance(result, MoleculeSample))
    blocks = iter(lambda: list(itertools.islice(samples, BLOCK_ROWS)), [])
    write_shard(folder, 0, "webdataset", BLOCK_ROWS, map(encode, blocks))


def plain_seconds(molecules: list[RawMolecule], config: FeaturizeConfig, folder: Path) -> float:
    """Measure the wall time of the plain loop, in seconds."""
    start = time.perf_counter()
    write((featurize(molecule, config) for molecule in molecules), folder)
    return time.perf_counter() - start


def datamol_seconds(molecules: list[RawMolecule], config: FeaturizeConfig, cores: int, folder: Path) -> float:
    """Measure the wall time of the same calls in datamol's processes in seconds, without their start."""
    function = functools.partial(featurize, config=config)
    datamol.parallelized(function, molecules[: 4 * cores], n_jobs=cores)
    start = time.perf_counter()
    write(datamol.parallelized(function, molecules, n_jobs=cores), folder)
    return time.perf_counter() - start


def job_seconds(
    file: Path, rows: int, cores: int, config: FeaturizeConfig, output: Path
) -> tuple[float, float, dict[str, float]]:
    """Measure the seconds of the job's stages, by its progress lines, those of the whole command, and peak memory.

    Memory in MiB is that of the driver, of the largest worker and of the largest sandbox.
    """
    command = [
        *(sys.executable, str(REPOSITORY / "preprocess"), f"input={file}", f"output={output}"),
        *(f"ray.num_cpus={cores}", "max_rejected_fraction=1.0"),
        f"rows_per_shard={max(1, min(ROWS_PER_SHARD, rows // (cores * SPLITS_PER_CORE)))}",
        f"featurize.conformers.num_conformers={config.conformers.num_conformers}",
    ]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log) as job:
            peaks = watch(job)
        whole = time.perf_counter() - start
        log.seek(0)
        printed = log.read()
    if job.returncode:
        sys.exit(f"the job failed:\n{printed}")
    stages = re.findall(r"^\w+  splits (\d+)/\1  molecules (\d+)/\2  ([\d.]+) mol/s", printed, re.MULTILINE)
    return sum(int(molecules) / float(speed) for _, molecules, speed in stages), whole, peaks


def watch(job: subprocess.Popen[bytes]) -> dict[str, float]:
    """Wait for a job; returns the peak memory in MiB of its driver, and of its largest worker and sandbox."""
    peaks: dict[str, float] = {}
    while job.poll() is None:
        for role, pid in family(job.pid):
            # The process may have ended meanwhile.
            with suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                if peak := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
                    peaks[role] = max(peaks.get(role, 0.0), int(peak.group(1)) / 1024)
        time.sleep(LOOK_S)
    return peaks


def family(driver: int) -> list[tuple[str, int]]:
    """List the driver, its Ray workers and their sandboxes, with their process ids."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found, waiting = [("driver", driver)], [driver]
    while waiting:
        for pid in children.get(waiting.pop(), []):
            waiting.append(pid)
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"molstream.pipeline.sandbox.child" in command:
                    found.append(("sandbox", pid))
                elif command.startswith(b"ray::") and not command.rstrip(b"\0").endswith(b"Agent"):
                    found.append(("worker", pid))
    return found


def main() -> None:
    """Run all sides in turns and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=ZINC, help="default: ZINC250k next to the repository")
    parser.add_argument("--conformers", choices=tuple(MOLECULES), default="one", help="per molecule; default one")
    parser.add_argument("--molecules", type=int, help="4,000 by default, 50,000 without conformers")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    if not options.file.is_file():
        parser.error(f"{options.file} does not exist: give a file of SMILES")
    # Also for the processes of datamol.
    os.environ["OMP_NUM_THREADS"] = "1"
    config = FeaturizeConfig(conformers=ConformerConfig(num_conformers=int(options.conformers == "one")))
    molecules = read_smiles(options.file, options.molecules or MOLECULES[options.conformers])
    rows, cores = len(molecules), options.cores

    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.smi"
        sample.write_text("".join(f"{molecule.text}\n" for molecule in molecules))
        for pair in range(options.pairs):
            plain = plain_seconds(molecules, config, Path(folder))
            job, whole, peaks = job_seconds(sample, rows, cores, config, Path(folder) / f"dataset-{pair}")
            other = datamol_seconds(molecules, config, cores, Path(folder))
            for name, ratio in (
                ("vs_plain_rdkit_with_ray_start", plain / (cores * whole)),
                ("vs_plain_rdkit", plain / (cores * job)),
                ("vs_datamol", other / job),
            ):
                ratios.setdefault(name, []).append(ratio)
            print(
                f"pair {pair}: {rows} molecules; plain loop, 1 core: {rows / plain:.1f} mol/s; job, {cores} cores: "
                f"{rows / job:.1f} mol/s ({rows / whole:.1f} with the start of Ray); datamol, {cores} processes: "
                f"{rows / other:.1f} mol/s; peak memory {', '.join(f'{k} {v:.0f} MiB' for k, v in peaks.items())}",
                flush=True,
            )
    print(f"compared: {rows} molecules, conformers {options.conformers}: the job on {cores} cores with {cores} x the")
    print(f"plain loop, and with datamol on {cores} processes; medians of {options.pairs} pairs")
    for name, found in ratios.items():
        print(f"figure {name} {statistics.median(found):.3f}")


if __name__ == "__main__":
    main()
