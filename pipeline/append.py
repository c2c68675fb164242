"""``molstream append input=... output=DATASET``: more files for a dataset, with the settings that it was made with.

The result is, byte for byte, what preparing all the files together would have given. Until it is complete the dataset
is as it was: new files are made in the work folder, and moved into the dataset just before the manifest is written.
"""

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from molstream.config import load
from molstream.errors import ConfigError, DataError
from molstream.io.files import write_atomically
from molstream.io.locks import exclusive
from molstream.pipeline.build import make
from molstream.pipeline.config import AppendConfig, PreprocessConfig
from molstream.pipeline.plan import (
    PLAN,
    WORK,
    Plan,
    cut_sources,
    differences,
    package_versions,
    plan_sources,
    read_plan,
)
from molstream.pipeline.readers.split import target_names
from molstream.pipeline.shards.manifest import APPENDING, Manifest, read_manifest


def append(config: AppendConfig) -> None:
    """Add the molecules of more files to a dataset, or go on with that.

    Raises:
        DataError: an unusable input, or too many rejected rows.
        ConfigError: no dataset, one made with other versions, or another append is unfinished.
    """
    output = Path(config.output)
    with exclusive(output):
        base = read_manifest(output)
        _finish(output, base)
        if not (output / APPENDING).exists():
            # Of the run that made the dataset: its duplicates are not ours.
            shutil.rmtree(output / WORK, ignore_errors=True)
        plan, settings = _plan(config, base, output)
        if plan.splits:
            make(plan, settings, base)
            _finish(output, read_manifest(output))
            shutil.rmtree(output / WORK)
        else:
            print(f"{output} holds these files already: nothing to do", file=sys.stderr)


def _finish(output: Path, manifest: Manifest) -> None:
    """Make the plan of an append that of the dataset, once the manifest says that it is done."""
    path = output / APPENDING
    if path.exists() and read_plan(path)["sources"] == manifest.config["sources"]:
        path.replace(output / PLAN)


def _plan(config: AppendConfig, base: Manifest, output: Path) -> tuple[Plan, PreprocessConfig]:
    """What there is to do (no splits: nothing), and the settings of the dataset."""
    record = read_plan(output / PLAN)
    if changed := differences(record["versions"], package_versions(), "versions"):
        raise ConfigError(
            f"{output} was made with other versions: {'; '.join(changed)}. Install those, or prepare all files anew."
        )
    kept = {**asdict(config), "limit": None}
    settings = load(PreprocessConfig, {**record["settings"], **kept}, str(output / PLAN))
    sources = plan_sources(settings)
    given = [source.record() for source in sources]
    known = {source["name"]: source for source in record["sources"]}
    if all(known.get(source["name"]) == source for source in given):
        return Plan((), (), {}, record), settings
    if taken := [source["name"] for source in given if source["name"] in known]:
        raise DataError(
            f"{output} has molecules of a file named {taken[0]} already, by which its rows are told: rename the new "
            "file, or leave it out if it is the same."
        )
    extended = {**record, "sources": [*record["sources"], *given]}
    path = output / APPENDING
    if path.exists() and (changed := differences(read_plan(path), extended)):
        raise ConfigError(
            f"{output}: another append is unfinished ({'; '.join(changed[:3])}). Give the same input again to finish "
            f"it, or remove {path} to give it up."
        )
    splits = cut_sources(sources, settings, output / WORK)
    if (names := target_names(sources)) != base.target_names:
        raise DataError(
            f"{output} has the targets {', '.join(base.target_names) or 'none'}, the new files have "
            f"{', '.join(names) or 'none'}: they must be the same."
        )
    write_atomically(path, (json.dumps(extended, indent=1) + "\n").encode())
    return Plan(splits, names, {}, extended), settings
