"""The plan of a dataset: its inputs, cut into splits, and every setting that its bytes depend on."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from molstream.errors import ConfigError
from molstream.io.files import write_atomically
from molstream.io.reading import read_json
from molstream.pipeline.config import PreprocessConfig, ReadConfig
from molstream.pipeline.readers.datasets.moleculenet import benchmark_file
from molstream.pipeline.readers.discover import find_files
from molstream.pipeline.readers.prepare import prepare
from molstream.pipeline.readers.source import SourceFile, describe_sources
from molstream.pipeline.readers.split import InputSplit, cut, target_names
from molstream.pipeline.shards.manifest import NAME as MANIFEST
from molstream.preprocessing.fields import SCHEMA_VERSION

PLAN = "plan.json"
WORK = "work"
IDENTITIES_KEY = "identities"
"""Key of plan.json: the identity that each remote source had when it was fetched, by name of the source."""


@dataclass(frozen=True)
class Plan:
    """The splits that become shards, and the record of everything that their bytes depend on."""

    splits: tuple[InputSplit, ...]
    """Empty if the dataset is finished."""
    target_names: tuple[str, ...]
    benchmarks: dict[str, tuple[InputSplit, ...]]
    """Splits of every benchmark set, by its name."""
    record: dict[str, Any]
    """Sources with checksums, settings and versions: the content of plan.json."""


def make_plan(config: PreprocessConfig) -> Plan:
    """Read the inputs once and cut them into splits; compressed files are decompressed into the work folder.

    Raises:
        DataError: an input cannot be used; the output folder is then as it was.
        ConfigError: the output folder holds a dataset of another plan.
    """
    output = Path(config.output)
    sources = plan_sources(config)
    benchmarks = benchmark_sources(config, output.resolve() / WORK)
    record = {
        "schema_version": SCHEMA_VERSION,
        "sources": [source.record() for source in sources],
        "benchmarks": {name: [source.record() for source in found] for name, found in benchmarks.items()},
        "settings": _settings(config),
        "versions": package_versions(),
    }
    _check_same(output, record)
    if (output / MANIFEST).is_file():
        return Plan((), (), {}, record)
    with _new_folders(output / WORK):
        splits = cut_sources(sources, config, output / WORK)
        cut_benchmarks = {name: _cut_benchmark(found, config) for name, found in benchmarks.items()}
        # Not part of the record: an object that was uploaded again has another identity, but may have the same content.
        identities = {source.name: source.identity for source in sources if source.identity}
        plan = {**record, IDENTITIES_KEY: identities}
        write_atomically(output / PLAN, (json.dumps(plan, indent=1) + "\n").encode())
    return Plan(splits, target_names(sources), cut_benchmarks, record)


def plan_sources(config: PreprocessConfig) -> list[SourceFile]:
    """The input files with their checksums; those of unchanged remote files come from an earlier plan, if there is one.

    Raises:
        DataError, ConfigError: no file matches, or one cannot be fetched or read.
    """
    output = Path(config.output).resolve()
    before: list[dict[str, Any]] = []
    if (output / PLAN).is_file():
        plan = read_plan(output / PLAN)
        identities = plan.get(IDENTITIES_KEY, {})
        before = [{**source, "identity": identities.get(source["name"], "")} for source in plan["sources"]]
    return describe_sources(find_files(config.input, config), output / WORK, before)


def cut_sources(sources: Sequence[SourceFile], config: PreprocessConfig, work: Path) -> tuple[InputSplit, ...]:
    """Cut the input into splits; compressed and remote files get a plain file in ``work``."""
    work.mkdir(exist_ok=True)
    prepare(sources)
    return tuple(cut(sources, config.rows_per_shard, config.limit))


def package_versions() -> dict[str, str]:
    """Versions of the packages that the bytes of a dataset depend on."""
    return {name: version(name) for name in ("rdkit", "pyarrow", "numpy")}


def read_plan(path: Path) -> dict[str, Any]:
    """The content of a plan.json.

    Raises:
        ConfigError: it cannot be read.
    """
    shape = {"sources": [{"name": str}], "benchmarks": dict, "settings": dict, "versions": dict}
    return read_json(path, shape, "Give a new output folder.", ConfigError)


def benchmark_sources(config: PreprocessConfig, work: Path) -> dict[str, list[SourceFile]]:
    """The files of every benchmark set, by the name of the task or of the file.

    Raises:
        ConfigError: a set is named twice, or the file of a task is not found.
    """
    found: dict[str, list[SourceFile]] = {}
    for item in config.decontaminate:
        path = str(item.get("path") if isinstance(item, Mapping) else item)
        named = item == path and "." not in path and "/" not in path
        if named and config.benchmark_folder is None:
            raise ConfigError(
                f"decontaminate={item} is the name of a MoleculeNet task: give the folder of its file, "
                "benchmark_folder=..., or the file itself."
            )
        file = str(benchmark_file(path, Path(str(config.benchmark_folder)))) if named else item
        name = path if named else Path(path).name
        if name in found:
            raise ConfigError(f"decontaminate names {name} twice.")
        found[name] = describe_sources(find_files(file, ReadConfig(), "decontaminate"), work)
    return found


def _cut_benchmark(sources: Sequence[SourceFile], config: PreprocessConfig) -> tuple[InputSplit, ...]:
    prepare(sources)
    return tuple(cut(sources, config.rows_per_shard))


@contextmanager
def _new_folders(folder: Path) -> Iterator[None]:
    """Create a folder with its parents, and remove the new ones if the body fails."""
    new = next((p for p in reversed((folder, *folder.parents)) if not p.exists()), None)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if new is not None:
            shutil.rmtree(new)
        raise


def _settings(config: PreprocessConfig) -> dict[str, Any]:
    """The settings that the bytes of the dataset depend on: no places, no speed, no limit of rejected rows."""
    unrelated = {"input", "output", "max_rejected_fraction", "log_interval_s", "ray"}
    # The sets are recorded by name and checksum; where their files lie does not matter.
    unrelated |= {"decontaminate", "benchmark_folder"}
    return {name: value for name, value in asdict(config).items() if name not in unrelated}


def check_free(output: Path) -> None:
    """Check that the output folder does not exist, is empty, or holds a dataset.

    Raises:
        ConfigError: it holds other files, or is a file.
    """
    if output.is_file():
        raise ConfigError(f"output={output} is a file: expected a folder that does not exist yet, or a dataset.")
    if output.is_dir() and not (output / PLAN).is_file():
        foreign = sorted(p.name for p in output.iterdir() if p.name != WORK)
        if foreign:
            raise ConfigError(f"output={output} holds other files ({', '.join(foreign[:5])}): give a new folder.")


def _check_same(output: Path, record: dict[str, Any]) -> None:
    path = output / PLAN
    if not path.is_file():
        return
    known = {key: value for key, value in read_plan(path).items() if key != IDENTITIES_KEY}
    changed = differences(known, json.loads(json.dumps(record)))
    if changed:
        state = "a finished dataset" if (output / MANIFEST).is_file() else "an unfinished dataset"
        raise ConfigError(
            f"output={output} holds {state} of another plan: {'; '.join(changed[:6])}. Give a new output folder, or "
            "the same input and settings to continue this one."
        )


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """The keys at which two JSON values differ, each as ``a.b: old -> new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(old.keys() | new.keys())
        return [d for n in names for d in differences(old.get(n), new.get(n), f"{key}.{n}" if key else n)]
    return [] if old == new else [f"{key}: {old!r} -> {new!r}"]
