"""Every text of a dataset, run, checkpoint or export, with a path or URL in its place: nothing outside is touched.

The mutations keep fingerprints and checksums right, as one who means harm would.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from molstream.cli.main import main
from molstream.errors import DataError, MolstreamError
from molstream.pipeline.shards.cache import ShardCache
from molstream.pipeline.shards.manifest import Shard
from molstream.pipeline.shards.reader import ShardDataset
from molstream.training.checkpoint import exported
from molstream.training.checkpoint.format import MARKER, checksums, load_checkpoint
from tests.support.watched import watched

STEP = "checkpoints/step_00000006"


class Part(NamedTuple):
    """A file that a stranger may have written, and what users do with it."""

    what: str
    """Fixture that the file is of."""
    name: str
    commands: tuple[str, ...]


PARTS = [
    Part("dataset", "manifest.json", ("inspect HERE", "verify HERE")),
    Part("dataset", "plan.json", ("append input=HERE/more.csv output=HERE",)),
    Part("dataset", "timing.json", ("inspect HERE",)),
    Part("export", "config.json", ("inspect HERE", "embed export=HERE input=HERE/more.csv output=HERE/v.parquet")),
    Part("small_run", "config.yaml", ("inspect HERE", "report HERE", "export run_dir=HERE output=HERE/export")),
    Part("small_run", "dataset.json", ("report HERE", "export run_dir=HERE output=HERE/export")),
    Part("small_run", "environment.json", ("report HERE",)),
    Part("small_run", "launches.json", ("inspect HERE", "report HERE")),
    Part("small_run", "loggers/tensorboard.json", ("sync run_dir=HERE timeout_s=9",)),
    Part("small_run", f"{STEP}/{MARKER}", (f"inspect HERE/{STEP}", "export run_dir=HERE output=HERE/export")),
    Part("small_run", f"{STEP}/state.json", (f"inspect HERE/{STEP}", "export run_dir=HERE output=HERE/export")),
]


def texts(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all texts of a tree, and of all keys of its mappings (the last item is then None)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*place, key, None)
            yield from texts(inner, (*place, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value[:3]):
            yield from texts(inner, (*place, number))
    elif isinstance(value, str):
        yield place


def replaced(tree: Any, place: tuple[Any, ...], text: str) -> None:
    """Put a text in a place."""
    *parents, last = place
    if last is None:
        *parents, key = parents
    for each in parents:
        tree = tree[each]
    if last is None:
        tree[text] = tree.pop(key)
    else:
        tree[last] = text


def stored(folder: Path, name: str, tree: Any) -> None:
    """Write a tree, and make right every checksum of it."""
    file = folder / name
    if name == "manifest.json":
        # The key itself may have got another name.
        tree.pop("fingerprint", None)
        text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
        tree["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()
    if name == "config.json":
        file.write_bytes(exported._written(tree))
    else:
        file.write_text(yaml.safe_dump(tree) if name.endswith("yaml") else json.dumps(tree))
    if name.endswith("state.json"):
        marker = file.parent / MARKER
        marker.write_text(json.dumps({**json.loads(marker.read_text()), **checksums([file])}))


def hostile(victim: Path, folder: Path) -> list[str]:
    """What a stranger may write instead of a name."""
    up = "/".join([".."] * len(folder.parts))
    return [
        str(victim),
        f"{up}{victim}",
        f"file://{victim}",
        f"shard-00000.tar/{up}{victim}",
        "http://127.0.0.1:9/${oc.env:HOME}",
    ]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that is none of molstream's business."""
    file = tmp_path / "victim" / "file"
    file.parent.mkdir()
    file.write_text("precious")
    return file


@pytest.mark.parametrize("cases", [2, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_no_text_leads_out_of_the_folder(request, tmp_path, victim, capfd, part, cases):
    source = request.getfixturevalue(part.what)
    content = (source / part.name).read_text()
    read: Callable[[str], Any] = yaml.safe_load if part.name.endswith("yaml") else json.loads
    random = Random(f"{part.name} {cases}")
    places = list(texts(read(content)))
    for number in range(cases):
        folder = tmp_path / f"copy-{number}"
        shutil.copytree(source, folder)
        (folder / "more.csv").write_text("smiles,value\nCCO,1\n")
        tree = read(content)
        place, text = random.choice(places), random.choice(hostile(victim, folder))
        replaced(tree, place, text)
        stored(folder, part.name, tree)
        for command in part.commands:
            with watched(victim.parent) as seen:
                code = main(command.replace("HERE", str(folder)).split())
            out, err = capfd.readouterr()
            assert seen == [], (place, text)
            assert code in (0, 1, 2), (place, text, err)
            assert "Traceback" not in out + err, (place, text, err)
        shutil.rmtree(folder)
    assert [path.name for path in victim.parent.iterdir()] == ["file"]
    assert victim.read_text() == "precious"


NAMES = [
    "../victim/file",
    "/victim",
    "..",
    ".",
    "",
    ".hidden",
    "a/b",
    "a\\b",
    "a\0b",
    "a\nb",
    "shard?x",
    "~",
    "ä.tar",
    "-rf",
]
HASHES = ["../victim/file", "A" * 64, "0" * 63, "0" * 65, "", "0" * 64 + "\n", "g" * 64, "/" * 64]


@pytest.mark.parametrize(("key", "value"), [("name", n) for n in NAMES] + [("sha256", h) for h in HASHES])
def test_a_manifest_names_no_file_but_its_own(dataset, tmp_path, victim, key, value):
    folder = tmp_path / "copy"
    shutil.copytree(dataset, folder)
    tree = json.loads((folder / "manifest.json").read_text())
    tree["shards"][1][key] = value
    stored(folder, "manifest.json", tree)
    cache = tmp_path / "cache"
    for path in (folder, f"file://{folder}"):
        with pytest.raises(DataError, match=r"manifest\.json cannot be used: .*(a shard is called|the sha256 of)"):
            ShardDataset(path, ShardCache(cache)).read_rows(np.arange(40), ("key",))
    assert list(cache.iterdir()) == []
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "change",
    [
        {"rows": "5"},
        {"bytes": -1},
        {"bytes": True},
        {"atoms": 1.5},
        {"blocks": [[0, 512, 30], [0, 512, 1]]},
        {"blocks": [[-512, 512, 30]]},
        {"blocks": [[0, 512, 29]]},
    ],
)
def test_the_numbers_of_a_shard_fit_each_other(dataset, change):
    shard = json.loads((dataset / "manifest.json").read_text())["shards"][0]
    assert Shard.from_dict(shard).problem() is None
    found = Shard.from_dict({**shard, **change}).problem()
    assert found is not None
    assert re.match(r"shard-00000\.tar: rows, atoms and bytes are|the blocks of shard-00000\.tar do not add up", found)


@pytest.mark.parametrize("name", ["../../victim", "/etc/passwd", "a/../../b", ".hidden", "..", ""])
def test_a_marker_names_no_file_but_the_checkpoint_s(small_run, tmp_path, victim, name):
    shutil.copytree(small_run / STEP, tmp_path / "step_00000006")
    marker = tmp_path / "step_00000006" / MARKER
    entry = checksums([victim])["file"]
    marker.write_text(json.dumps({**json.loads(marker.read_text()), name: entry}))
    with watched(victim.parent) as seen, pytest.raises(MolstreamError, match="which is no file of a checkpoint"):
        load_checkpoint(tmp_path / "step_00000006")
    assert seen == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("container", "../victim"),
        ("histograms", {"heavy_atoms": {"../victim": 3}}),
        ("histograms", {"rings": {"1": "many"}}),
        ("histograms", {"rings": 3}),
        ("changes", {"normalize": -1}),
        ("benchmarks", {"bace": None}),
    ],
)
def test_what_is_counted_are_counts(dataset, tmp_path, key, value):
    tree = json.loads((dataset / "manifest.json").read_text())
    tree[key] = value
    stored(tmp_path, "manifest.json", tree)
    with pytest.raises(DataError, match=r"manifest\.json cannot be used: .*(is no table of counts|expected one of)"):
        ShardDataset(tmp_path)
