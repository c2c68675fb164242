"""Measures the cost of a job without chemistry: driver memory, splits, duplicates and manifest, 10^5 to 10^8 records.

The job runs on Ray, but stubs without chemistry replace its two stages: the first writes hashes of numbers (one in ten
is a duplicate), the second sparse files of a shard's size. Each size runs in a separate process, to measure its peak
memory.

    python benchmarks/scaling.py [--rows 100000 1000000] [--rows-per-shard 2048] [--folder FOLDER]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from molstream.io.files import write_atomically
from molstream.pipeline import build
from molstream.pipeline.config import PreprocessConfig
from molstream.pipeline.shards.containers import Block, Blocks
from molstream.pipeline.shards.manifest import NAME, Account, Shard
from molstream.pipeline.shards.writer import shard_name
from molstream.pipeline.stages.dedup import KEY_DTYPE, duplicates_of, keys_path, write_array
from molstream.pipeline.stages.tally import Tally, Timing
from molstream.pipeline.stages.task import SplitCommit, SplitTask
from molstream.preprocessing.config import FeaturizeConfig

BYTES_PER_MOLECULE = 400


def describe_stub(task: SplitTask) -> dict[str, int]:
    """Write hashes of the rows' numbers; every tenth is a duplicate of the previous one."""
    path = keys_path(Path(task.work), task.index)
    if not path.exists():
        rows = np.arange(task.split.rows, dtype=np.uint64)
        numbers = rows + np.uint64(task.split.first_row)
        numbers[numbers % np.uint64(10) == 9] -= np.uint64(1)
        table = np.empty(len(rows), KEY_DTYPE)
        table["high"], table["low"], table["row"] = numbers * np.uint64(0x9E3779B97F4A7C15), numbers, rows
        write_array(path, table[np.lexsort((table["row"], table["low"], table["high"]))])
    return {}


def write_stub(task: SplitTask, buckets: int) -> SplitCommit:
    """Write a sparse file of the size of a shard."""
    duplicates = len(duplicates_of(Path(task.work), task.index, buckets))
    rows = task.split.rows - duplicates
    file = Path(task.folder) / shard_name(task.index, task.container)
    with file.open("wb") as target:
        target.truncate(rows * BYTES_PER_MOLECULE)
    sizes = [(k, min(task.block_rows, rows - k)) for k in range(0, rows, task.block_rows)]
    blocks = [Block(k * BYTES_PER_MOLECULE, size * BYTES_PER_MOLECULE, size) for k, size in sizes]
    shard = Shard(file.name, rows, 25 * rows, rows * BYTES_PER_MOLECULE, "0" * 64, Blocks.of(blocks))
    histograms = {"heavy_atoms": {str(k): 1 for k in range(5, 60)}, "elements": {"C": rows}}
    tally = Tally.from_dict(
        {"conformer_status": {"etkdg": rows}, "changes": {}, "left_out": {}, "histograms": histograms}
    )
    commit = SplitCommit(Account(task.split.rows, rows, duplicates, {}), shard, tally, Timing(), {})
    write_atomically(task.path("commit.json"), commit.to_json())
    return commit


def measure(rows: int, rows_per_shard: int, folder: Path) -> None:
    """Run one job in this process, and print its figures as a line of JSON."""
    source = folder / "molecules.smi"
    with source.open("wb") as file:
        for start in range(0, rows, 1_000_000):
            file.write(b"C\n" * min(1_000_000, rows - start))
    output = folder / "dataset"
    build.parts_to_describe = build.conformers.parts = lambda task: []
    build.join_description, build.conformers.write_split = describe_stub, write_stub
    start = time.perf_counter()
    manifest = build.build(
        PreprocessConfig(
            input=str(source),
            output=str(output),
            rows_per_shard=rows_per_shard,
            log_interval_s=60,
            # The shards are empty.
            featurize=FeaturizeConfig(descriptors="none"),
        )
    )
    figures = {
        "rows": rows,
        "shards": len(manifest.shards),
        "seconds": round(time.perf_counter() - start, 1),
        "driver_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "manifest_mib": (output / NAME).stat().st_size / 2**20,
        "duplicates": manifest.counts.duplicates,
    }
    print(json.dumps(figures))


def main() -> None:
    """Measure all sizes and compare the last one with the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rows-per-shard", type=int, default=2048)
    parser.add_argument("--folder", help="folder of the files; default: a temporary folder")
    parser.add_argument("--one", action="store_true", help="measure in this process")
    options = parser.parse_args()
    if options.one:
        measure(options.rows[0], options.rows_per_shard, Path(options.folder))
        return
    found = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            command = [sys.executable, __file__, "--one", "--folder", folder]
            command += ["--rows", str(rows), "--rows-per-shard", str(options.rows_per_shard)]
            figures = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        found.append(figures)
        print(
            f"{figures['rows']} rows, {figures['shards']} shards: {figures['seconds']} s, driver at most "
            f"{figures['driver_peak_mib']:.0f} MiB, manifest {figures['manifest_mib']:.1f} MiB, "
            f"{figures['duplicates']} duplicates",
            flush=True,
        )
        assert figures["duplicates"] == rows // 10
    print(f"compared: peak memory of the driver, {found[-1]['rows']} rows with {found[0]['rows']}")
    print(f"figure driver_memory_ratio {found[-1]['driver_peak_mib'] / found[0]['driver_peak_mib']:.3f}")


if __name__ == "__main__":
    main()
