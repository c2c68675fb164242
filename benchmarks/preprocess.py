"""Compares molstream's Ray job with a plain RDKit loop and with datamol, for the same molecules and chemistry.

The plain loop calls `featurize` in one process and writes a shard, without child processes, stages or duplicates. The
job, with shards of the default size, is compared with such loops on all of its cores: 1.0 means that Ray, sandbox and
stages cost nothing. On a machine that others use too, `--together` runs a plain loop on every core at the same time, so
that both sides compete alike. With `--datamol` (`pip install datamol`), `datamol.parallelized` distributes the same
calls over as many processes as the job has cores. All take turns.

    python benchmarks/preprocess.py [FILE.smi[.gz|.bz2|.xz]] [--conformers one|none] [--molecules N ...] [--pairs N]
        [--together] [--datamol]
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
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

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


def together_seconds(molecules: list[RawMolecule], config: FeaturizeConfig, folder: Path, cores: int) -> float:
    """Measure the mean wall time of a plain loop in seconds, while there is one on every core."""
    folders = [Path(tempfile.mkdtemp(dir=folder)) for _ in range(cores)]
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        # Not the start of the processes.
        list(pool.map(plain_seconds, [molecules[:4]] * cores, [config] * cores, folders))
        return statistics.mean(pool.map(plain_seconds, [molecules] * cores, [config] * cores, folders))


def datamol_seconds(molecules: list[RawMolecule], config: FeaturizeConfig, cores: int, folder: Path) -> float:
    """Measure the wall time of the same calls in datamol's processes in seconds, without their start."""
    import datamol

    function = functools.partial(featurize, config=config)
    datamol.parallelized(function, molecules[: 4 * cores], n_jobs=cores)
    start = time.perf_counter()
    write(datamol.parallelized(function, molecules, n_jobs=cores), folder)
    return time.perf_counter() - start


def job_seconds(file: Path, cores: int, config: FeaturizeConfig, output: Path) -> tuple[float, float, dict[str, float]]:
    """Measure the seconds of the job's stages, by its progress lines, those of the whole command, and peak memory.

    Memory in MiB is that of the driver, of the largest worker and of the largest sandbox.
    """
    command = [
        *(sys.executable, str(REPOSITORY / "preprocess"), f"input={file}", f"output={output}"),
        *(f"ray.num_cpus={cores}", "max_rejected_fraction=1.0"),
        f"featurize.conformers.num_conformers={config.conformers.num_conformers}",
    ]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
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
                status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
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
    parser.add_argument("--molecules", type=int, nargs="+", help="4,000 by default, 50,000 without conformers")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--together", action="store_true", help="a plain loop on every core at the same time")
    parser.add_argument("--datamol", action="store_true")
    options = parser.parse_args()
    if not options.file.is_file():
        parser.error(f"{options.file} does not exist: give a file of SMILES")
    # Also for the processes of datamol.
    os.environ["OMP_NUM_THREADS"] = "1"
    config = FeaturizeConfig(conformers=ConformerConfig(num_conformers=int(options.conformers == "one")))
    for count in options.molecules or [MOLECULES[options.conformers]]:
        molecules = read_smiles(options.file, count)
        ratios = compare(molecules, config, options)
        print(f"compared: {len(molecules)} molecules, conformers {options.conformers}: the job on {options.cores}")
        print(f"cores with {options.cores} x the plain loop, and with datamol; medians of {options.pairs} pairs")
        for name, found in ratios.items():
            print(
                f"figure {name}_{len(molecules)} {statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})"
            )


def compare(
    molecules: list[RawMolecule], config: FeaturizeConfig, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Run all sides in turns; returns the ratios of every turn by name."""
    cores, pairs = options.cores, options.pairs
    plain_loop = functools.partial(together_seconds, cores=cores) if options.together else plain_seconds
    rows = len(molecules)
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.smi"
        sample.write_text("".join(f"{molecule.text}\n" for molecule in molecules))
        for pair in range(pairs):
            # A plain loop before and one behind the job, since the speed of a shared machine drifts.
            plain = plain_loop(molecules, config, Path(folder))
            job, whole, peaks = job_seconds(sample, cores, config, Path(folder) / f"dataset-{pair}")
            plain = (plain + plain_loop(molecules, config, Path(folder))) / 2
            found = {
                "vs_plain_rdkit_with_ray_start": plain / (cores * whole),
                "vs_plain_rdkit": plain / (cores * job),
            }
            if options.datamol:
                found["vs_datamol"] = datamol_seconds(molecules, config, cores, Path(folder)) / job
            for name, ratio in found.items():
                ratios.setdefault(name, []).append(ratio)
            print(
                f"pair {pair}: {rows} molecules; plain loop, 1 core: {rows / plain:.1f} mol/s; job, {cores} cores: "
                f"{rows / job:.1f} mol/s ({rows / whole:.1f} with the start of Ray); "
                f"{', '.join(f'{name} {ratio:.3f}' for name, ratio in found.items())}; "
                f"peak memory {', '.join(f'{k} {v:.0f} MiB' for k, v in peaks.items())}",
                flush=True,
            )
    return ratios


if __name__ == "__main__":
    main()
