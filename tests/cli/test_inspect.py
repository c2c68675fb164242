"""``molstream inspect`` of what is no folder: a URL, one file, nothing."""

import shutil

import pytest

from molstream.cli.main import main
from tests.support.command_lines import FAILED, USAGE, refused
from tests.support.listener import listening


def objects(folder, name):
    return {f"/{name}/{file.name}": file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_dataset_at_a_url_is_its_manifest(places, capfd):
    main(["inspect", str(places.DATASET)])
    here = capfd.readouterr().out.splitlines()
    with listening(objects(places.DATASET, "mine")) as server:
        assert main(["inspect", f"{server.url}/mine"]) == 0
        there = capfd.readouterr().out.splitlines()
        assert {path for path in server.asked if "manifest.json" not in path} == set()
    assert there[0] == here[0].replace(str(places.DATASET), f"{server.url}/mine")
    assert there[1:] == [line for line in here[1:] if line in there]
    assert there[-1] == next(line for line in here if "fingerprint" in line)
    assert not any("slowest" in line or "card.html" in line for line in there)


def test_what_is_at_no_url_is_said(places, capfd):
    with listening({"/mine/manifest.json": b"{}"}) as server:
        refused(places, capfd, f"inspect {server.url}/mine", FAILED, f"{server.url}/mine/manifest.json cannot be used")
        refused(places, capfd, f"inspect {server.url}/other", FAILED, f"{server.url}/other is not a checkpoint")


def test_one_shard_is_described_and_checked(places, capfd):
    shard = places.DATASET / "shard-00001.tar"
    assert main(["inspect", str(shard)]) == 0
    line = capfd.readouterr().out
    assert line.startswith(f"shard shard-00001.tar of the dataset {places.DATASET}: intact, ")
    assert "4 block(s)" in line
    copy = places.HERE / "copy"
    shutil.copytree(places.DATASET, copy)
    content = (copy / shard.name).read_bytes()
    (copy / shard.name).write_bytes(content[:700] + b"?" + content[701:])
    refused(places, capfd, f"inspect {copy}/{shard.name}", FAILED, "its sha256 is", "molstream verify")
    shutil.copy(shard, places.HERE / "alone.tar")
    refused(places, capfd, "inspect HERE/alone.tar", FAILED, "it is a single file, and no shard")


@pytest.mark.parametrize(
    ("line", "code", "part"),
    [
        (
            "inspect HERE/nowhere",
            FAILED,
            "HERE/nowhere is not written by molstream: there is no such file or folder; expected",
        ),
        ("inspect HERE", FAILED, "HERE is not written by molstream: it is an empty folder; expected a dataset"),
        ("inspect CSV", FAILED, "CSV is not written by molstream: it is a single file, and no shard"),
        ("inspect EXPORT/config.json", FAILED, "config.json is not written by molstream: it is a single file"),
        ("inspect", USAGE, "path is missing"),
        ("inspect ''", USAGE, "path= has no value"),
    ],
)
def test_nothing_is_answered_clearly(places, capfd, line, code, part):
    refused(places, capfd, line, code, part)
