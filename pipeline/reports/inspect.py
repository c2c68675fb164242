"""Summary of a dataset on one screen of text."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from molstream.errors import DataError
from molstream.io.remote import Retries, is_url, read, shown
from molstream.pipeline.reports.card import NAME as CARD
from molstream.pipeline.reports.card import by_count, described, read_timing, targeted
from molstream.pipeline.reports.rejections import examples, shown_ascii
from molstream.pipeline.shards.cache import difference
from molstream.pipeline.shards.histograms import QUANTITIES, bars, quantiles, seconds, share, size
from molstream.pipeline.shards.manifest import NAME, Manifest, parse_manifest, read_manifest
from molstream.pipeline.shards.verify import unfinished
from molstream.pipeline.stages.tally import Timing

WIDTH = 80
"""Most characters of a line; only the first line, which shows the whole path of the dataset, can be longer."""
BARS = 24
"""Most bars of a histogram."""
SHARES = (0.0, 0.05, 0.5, 0.95, 1.0)
"""Quantiles that are shown."""
REASONS, SETS, SLOWEST = 8, 4, 3
"""Most reasons of rejection, benchmark sets and slowest molecules that are listed."""


def inspect_dataset(path: str | Path) -> str:
    """The counts, histograms, rejections and origin of the dataset in a folder or at a URL, in at most 40 lines.

    At a URL only the manifest is fetched, so that examples of rejections and times are left out.

    Raises:
        DataError: it is no committed dataset, or damaged.
    """
    if is_url(str(path)):
        where, folder = shown(str(path)), None
        manifest = parse_manifest(Retries().call(lambda: read(f"{str(path).rstrip('/')}/{NAME}")), where)
    else:
        where, folder = str(path), Path(path)
        manifest = read_manifest(folder)
    timing = read_timing(folder) if folder else None
    lines = [f"dataset {where}: {manifest.num_rows:,} molecules", *_size(manifest), *_flow(manifest)]
    lines += _listed("changed by ", manifest.changes, "no step of standardization")
    lines += _listed("conformers: ", manifest.conformer_status, "none")
    lines += _listed("given conformers left out: ", manifest.left_out, "none") if manifest.left_out else []
    lines += _wrapped(f"targets: {targeted(manifest)}", 2)
    lines += _wrapped(f"descriptors: {described(manifest)}", 2)
    lines += _histograms(manifest)
    elements = by_count(manifest.histograms.get("elements", {}))
    lines += _wrapped("elements: " + " ".join(f"{name} {count:,}" for name, count in elements), 2)
    lines += _rejections(folder, manifest)
    lines += _times(timing, manifest) if timing else []
    lines.append("  made with " + ", ".join(f"{name} {version}" for name, version in manifest.versions.items()))
    lines.append(f"  fingerprint {manifest.fingerprint}")
    if folder and (append := unfinished(folder)):
        lines += _wrapped(append, 3)
    if folder and (folder / CARD).is_file():
        lines.append(f"  with drawings: {CARD}")
    return "\n".join(lines)


def inspect_shard(path: Path) -> str:
    """What one shard of a dataset holds, in a line.

    Raises:
        DataError: the file is no shard of a dataset in its folder, or damaged.
    """
    folder = path.parent
    shards = read_manifest(folder).shards if (folder / NAME).is_file() else ()
    shard = next((each for each in shards if each.name == path.name), None)
    if shard is None:
        raise DataError(
            f"{path} is not written by molstream: it is a single file, and no shard of a dataset; expected the folder "
            "of a dataset, run, checkpoint or export, or a shard beside its manifest.json."
        )
    with path.open("rb") as file:
        if problem := difference(file.fileno(), shard):
            raise DataError(f"{path}: {problem}. Run `molstream verify {folder}`, then preprocess again.")
    return (
        f"shard {path.name} of the dataset {folder}: intact, {shard.rows:,} molecules, {shard.atoms:,} atoms, "
        f"{len(shard.blocks)} block(s), {size(shard.bytes)}"
    )


def _size(manifest: Manifest) -> list[str]:
    stored = sum(shard.bytes for shard in manifest.shards)
    atoms = sum(shard.atoms for shard in manifest.shards)
    text = (
        f"{atoms:,} atoms ({manifest.hydrogens}), {len(manifest.shards):,} {manifest.container} shard(s), "
        f"{size(stored)} ({stored / max(1, manifest.num_rows):.0f} bytes each)"
    )
    return _wrapped(text, 2)


def _flow(manifest: Manifest) -> list[str]:
    """The conservation law, then the rows that each benchmark set holds."""
    counts = manifest.counts
    text = (
        f"rows in {counts.rows_in:,} = written {counts.written:,} + duplicates {counts.duplicates:,} "
        f"+ decontaminated {counts.decontaminated:,} + rejected {sum(counts.rejected.values()):,}"
    )
    lines = _wrapped(text, 2)
    for name, count in list(manifest.benchmarks.items())[:SETS]:
        lines.append(f"    in benchmark {shown_ascii(name, 40)}: {count:,} decontaminated")
    if more := len(manifest.benchmarks) - SETS:
        lines += [f"    and {more} more benchmark sets"] if more > 0 else []
    return lines


def _histograms(manifest: Manifest) -> list[str]:
    """A line for every quantity: its shape, then its quantiles."""
    names = "".join(f"{name:>7}" for name in ("min", "5 %", "50 %", "95 %", "max"))
    lines = [f"  {'':{16 + BARS}}{names}"]
    for name, quantity in QUANTITIES.items():
        if histogram := manifest.histograms.get(name):
            shape = sparkline([bar.count for bar in bars(histogram, quantity.step, BARS)])
            values = "".join(f"{value:>7}" for value in quantiles(histogram, SHARES))
            lines.append(f"  {f'{quantity.title} {quantity.unit}':16}{shape:{BARS}}{values}")
    return lines


def sparkline(counts: Sequence[int]) -> str:
    """A bar of one character for every count; only a count of 0 is blank."""
    most = max(counts, default=0)
    return "".join("▁▂▃▄▅▆▇█"[min(7, 8 * count // most)] if count else " " for count in counts)


def _rejections(folder: Path | None, manifest: Manifest) -> list[str]:
    """A line for every reason: count, share and, if there is a folder, an example."""
    counts = by_count(manifest.counts.rejected)
    found = examples(folder, manifest, 1) if folder else {}
    lines = ["  rejected, each with an example:" if folder else "  rejected:"] if counts else []
    for reason, count in counts[:REASONS]:
        part = share(count, manifest.counts.rows_in)
        head = f"    {reason} {count:,} ({part}) "
        if not folder:
            lines.append(head.rstrip())
            continue
        row = found[reason][0]
        place = f"{shown_ascii(Path(row['source']).name, 20)}:{row['row']} "
        lines.append(
            f"{head}{place}{shown_ascii(row['text'].strip(), max(8, WIDTH - len(head) - len(place)))}"[:WIDTH].rstrip()
        )
    if len(counts) > REASONS:
        lines.append(f"    and {len(counts) - REASONS} more reasons: {sum(count for _, count in counts[REASONS:]):,}")
    return lines


def _times(timing: Timing, manifest: Manifest) -> list[str]:
    total = timing.describe_s + timing.embed_s
    lines = [
        f"  CPU time: description {seconds(timing.describe_s)}, conformers {seconds(timing.embed_s)}; "
        f"{seconds(total / max(1, manifest.num_rows))} a molecule"
    ]
    for time, smiles in timing.slowest[:SLOWEST]:
        head = f"    slowest: {seconds(time)} "
        lines.append(head + shown_ascii(smiles, WIDTH - len(head)))
    return lines


def _listed(head: str, counts: Mapping[str, int], nothing: str) -> list[str]:
    return _wrapped(head + (", ".join(f"{name} {count:,}" for name, count in by_count(counts)) or nothing), 2)


def _wrapped(text: str, most: int) -> list[str]:
    """A text in lines of which at most ``most`` are shown."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        max_lines=most,
        placeholder=" ...",
        break_on_hyphens=False,
    )
