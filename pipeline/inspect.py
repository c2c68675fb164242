"""What a dataset is, on one screen of text."""

from pathlib import Path

from pipeline.shards.manifest import read_manifest

SHOWN = 12
"""Most lines of a list."""


def inspect_dataset(path: str | Path) -> str:
    """The dataset's counts, schema and histograms.

    Raises:
        DataError: it is no committed dataset, or damaged.
    """
    manifest = read_manifest(Path(path))
    counts = manifest.counts
    size = sum(shard.bytes for shard in manifest.shards)
    atoms = sum(shard.atoms for shard in manifest.shards)
    rejected = sum(counts.rejected.values())
    lines = [
        f"dataset {path}: {manifest.num_rows:,} molecules, {atoms:,} atoms ({manifest.hydrogens}), "
        f"{len(manifest.shards)} {manifest.container} shard(s), {size / 2**20:.1f} MiB "
        f"({size / max(1, manifest.num_rows):.0f} bytes per molecule)",
        f"  rows in {counts.rows_in:,} = written {counts.written:,} + duplicates {counts.duplicates:,} "
        f"+ decontaminated {counts.decontaminated:,} + rejected {rejected:,}",
    ]
    lines += [f"    {reason}: {count:,}" for reason, count in sorted(counts.rejected.items(), key=lambda kv: -kv[1])]
    lines += [f"    in benchmark {name}: {count:,} decontaminated" for name, count in manifest.benchmarks.items()]
    lines.append("  changed by " + (", ".join(f"{step} {n:,}" for step, n in manifest.changes.items()) or "no step"))
    lines.append("  conformers: " + ", ".join(f"{name} {n:,}" for name, n in manifest.conformer_status.items()))
    lines.append(f"  targets: {', '.join(manifest.target_names) or 'none'}")
    lines.append(f"  heavy atoms: {_quantiles(manifest.histograms['heavy_atoms'])}")
    elements = sorted(manifest.histograms["elements"].items(), key=lambda kv: -kv[1])
    lines.append("  elements: " + " ".join(f"{name} {n:,}" for name, n in elements[:SHOWN]))
    lines.append("  made with " + ", ".join(f"{name} {version}" for name, version in manifest.versions.items()))
    lines.append(f"  fingerprint {manifest.fingerprint}")
    return "\n".join(lines)


def _quantiles(histogram: dict[str, int]) -> str:
    """Minimum, median, 99th percentile and maximum of a histogram over whole numbers."""
    total, seen, found = sum(histogram.values()), 0, {}
    for value, count in sorted((int(k), n) for k, n in histogram.items()):
        seen += count
        for name, share in (("min", 0.0), ("median", 0.5), ("p99", 0.99), ("max", 1.0)):
            if name not in found and seen >= share * total:
                found[name] = value
    return ", ".join(f"{name} {value}" for name, value in found.items())
