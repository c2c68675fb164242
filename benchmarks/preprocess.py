"""molstream's Ray job against a plain RDKit loop over the same molecules and chemistry, in turn, on the same machine.

The loop calls `featurize` in one process and writes a shard, without child processes, stages or duplicates. The job has
to be as fast as such loops would be on all of its cores together: 1.0 means that Ray, sandbox and stages cost nothing.

    python benchmarks/preprocess.py FILE.smi[.gz|.xz] [--molecules N] [--cores N] [--pairs N] [--two-d]
"""

import argparse
import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.shards.codec import encode
from pipeline.shards.writer import write_shard
from pipeline.sources import cut, find_files, open_sources, read_split
from preprocessing.conformers import ConformerConfig
from preprocessing.featurize import FeaturizeConfig, featurize
from preprocessing.fields import MoleculeSample, RawMolecule

LAUNCHER = Path(__file__).resolve().parent.parent / "preprocess"
BLOCK_ROWS = 256
SPLITS_PER_CORE = 4
"""So that the cores end together; a real job has thousands."""


def plain_seconds(molecules: list[RawMolecule], config: FeaturizeConfig, folder: Path) -> float:
    """Wall time of the plain loop."""
    start = time.perf_counter()
    results = (featurize(molecule, config) for molecule in molecules)
    samples = (result for result in results if isinstance(result, MoleculeSample))
    blocks = iter(lambda: list(itertools.islice(samples, BLOCK_ROWS)), [])
    write_shard(folder, 0, "webdataset", BLOCK_ROWS, map(encode, blocks))
    return time.perf_counter() - start


def job_seconds(file: Path, rows: int, cores: int, config: FeaturizeConfig, output: Path) -> tuple[float, float]:
    """Wall time of the job's two stages, from its own progress lines, and of the whole command with Ray's start."""
    command = [
        *(sys.executable, str(LAUNCHER), f"input={file}", f"output={output}", f"ray.num_cpus={cores}"),
        f"rows_per_shard={max(1, rows // (cores * SPLITS_PER_CORE))}",
        "max_rejected_fraction=1.0",
        f"featurize.conformers.num_conformers={config.conformers.num_conformers}",
    ]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    whole = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"the job failed:\n{done.stderr}")
    speeds = dict(re.findall(rf"^(\w+)  splits .*molecules {rows}/{rows}  ([\d.]+) mol/s", done.stderr, re.MULTILINE))
    assert len(speeds) == 2, done.stderr
    return sum(rows / float(speed) for speed in speeds.values()), whole


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--molecules", type=int, default=2000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--two-d", action="store_true", help="no conformers: what Ray costs when chemistry is cheap")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    config = FeaturizeConfig(conformers=ConformerConfig(num_conformers=0 if options.two_d else 1))

    with tempfile.TemporaryDirectory() as folder:
        sources = open_sources(find_files([options.file]), Path(folder))
        splits = cut(sources, options.molecules, None, [], options.molecules)
        molecules = [m for split in splits for m in read_split(split) if isinstance(m, RawMolecule)]
        sample = Path(folder) / "sample.smi"
        sample.write_text("".join(f"{molecule.text}\n" for molecule in molecules))
        rows = len(molecules)
        ratios, ratios_whole = [], []
        for pair in range(options.pairs):
            plain = plain_seconds(molecules, config, Path(folder))
            job, whole = job_seconds(sample, rows, options.cores, config, Path(folder) / f"dataset-{pair}")
            ratios.append(plain / (options.cores * job))
            ratios_whole.append(plain / (options.cores * whole))
            print(
                f"pair {pair}: {rows} molecules; plain loop, 1 core: {rows / plain:.1f} mol/s; job, {options.cores} "
                f"cores: {rows / job:.1f} mol/s ({rows / whole:.1f} with the start of Ray)",
                flush=True,
            )
    print(f"compared: Ray tasks on {options.cores} cores with {options.cores} x a plain RDKit loop, median of pairs")
    print(f"figure vs_plain_rdkit {statistics.median(ratios):.3f}")
    print(f"figure vs_plain_rdkit_with_ray_start {statistics.median(ratios_whole):.3f}")


if __name__ == "__main__":
    main()
