"""Exports at URLs: pulled once, pushed whole, on a real S3 server and a web server."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from molstream import MoleculeEmbedder, load_pretrained
from molstream.cli.main import main
from molstream.errors import CheckpointError, ConfigError, RemoteError
from molstream.training.checkpoint.exported import CARD_FILE, CONFIG_FILE, EVALUATION_FILE, WEIGHTS_FILE, read_weights
from molstream.training.checkpoint.load import initial_weights
from molstream.training.hubs import urls
from molstream.training.hubs.urls import UrlHub
from tests.support.datasets import DRUGS
from tests.support.listener import listening
from tests.support.loaded import same_weights


def objects(folder: Path, name: str) -> dict[str, bytes]:
    return {f"/{name}/{file.name}": file.read_bytes() for file in folder.iterdir()}


# --- pull -------------------------------------------------------------------------------------------------------------


def test_an_export_of_a_bucket_is_downloaded_once_and_gives_the_same_vectors(object_store, exports, tmp_path, capfd):
    url = object_store.put_folder("once", exports[0])
    expected = MoleculeEmbedder(exports[0], representation="2d").transform(DRUGS[:3])
    for source in (url, f"{url}/"):
        found = MoleculeEmbedder.from_pretrained(source, representation="2d").transform(DRUGS[:3])
        np.testing.assert_array_equal(found, expected)
    assert object_store.fetched(f"once/{WEIGHTS_FILE}") == 1
    (tmp_path / "drugs.smi").write_text("\n".join(DRUGS[:3]))
    words = [f"input={tmp_path}/drugs.smi", f"output={tmp_path}/drugs.npy", "representation=2d", "num_cpus=1"]
    assert main(["embed", f"export={url}", *words]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "drugs.npy"), expected, rtol=1e-4, atol=1e-5)
    first, second = ({f"encoders.{n}": t for n, t in read_weights(folder).items()} for folder in exports)
    weights, told = initial_weights(second, url)
    assert all(torch.equal(weights[name], tensor) for name, tensor in first.items())
    assert f"an export ({url}, " in told
    assert object_store.fetched(f"once/{WEIGHTS_FILE}") == 1


def test_what_is_replaced_at_its_url_is_downloaded_again(object_store, exports):
    url = object_store.put_folder("replaced", exports[0])
    assert same_weights(url, exports[0])
    object_store.put_folder("replaced", exports[1])
    assert same_weights(url, exports[1])


def test_a_copy_that_was_damaged_in_the_cache_is_downloaded_again(object_store, exports, home):
    url = object_store.put_folder("damaged", exports[0])
    load_pretrained(url)
    (copy,) = (home / ".cache" / "molstream" / "exports").glob(f"*/*/{WEIGHTS_FILE}")
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    assert same_weights(url, exports[0])
    assert object_store.fetched(f"damaged/{WEIGHTS_FILE}") == 2


def test_a_web_server_needs_no_listing_and_the_card_may_be_missing(exports):
    files = objects(exports[0], "mine")
    del files[f"/mine/{CARD_FILE}"]
    with listening(files) as server:
        assert same_weights(f"{server.url}/mine", exports[0])
        asked = {path.removeprefix("/mine/") for path in server.asked}
    assert asked == {CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, EVALUATION_FILE}


def test_an_export_without_checksums_is_never_taken_from_the_cache(exports, tmp_path):
    def older(folder: Path) -> Path:
        copy = tmp_path / folder.name
        shutil.copytree(folder, copy)
        config = json.loads((copy / CONFIG_FILE).read_text())
        config = {key: value for key, value in config.items() if key not in ("files", "fingerprint")}
        config["training"]["dataset_fingerprint"] = ""  # so that the two configurations are equal
        (copy / CONFIG_FILE).write_text(json.dumps({**config, "format_version": 2}))
        (copy / CARD_FILE).unlink()
        return copy

    first, second = map(older, exports)
    with listening(objects(first, "old")) as server:
        assert same_weights(f"{server.url}/old", first)
        server.objects.update(objects(second, "old"))
        assert same_weights(f"{server.url}/old", second)
        # Without a checksum, the format of the weights' own file finds a part that is missing.
        server.objects[f"/old/{WEIGHTS_FILE}"] = (first / WEIGHTS_FILE).read_bytes()[:-100]
        with pytest.raises(CheckpointError, match=WEIGHTS_FILE):
            load_pretrained(f"{server.url}/old")


@pytest.mark.parametrize("part", ["truncated", "another", "missing"])
def test_weights_that_are_not_those_of_the_configuration_are_an_error(exports, part):
    files = objects(exports[0], "mine")
    weights = files.pop(f"/mine/{WEIGHTS_FILE}")
    if part != "missing":
        files[f"/mine/{WEIGHTS_FILE}"] = (
            weights[:-7] if part == "truncated" else (exports[1] / WEIGHTS_FILE).read_bytes()
        )
    with listening(files) as server:
        with pytest.raises(CheckpointError) as raised:
            load_pretrained(f"{server.url}/mine")
        assert f"{server.url}/mine" in str(raised.value)
        assert WEIGHTS_FILE in str(raised.value)
        assert ".cache" not in str(raised.value)
        server.objects = objects(exports[0], "mine")
        assert same_weights(f"{server.url}/mine", exports[0])


def test_what_is_no_export_is_said_with_its_url(object_store, exports):
    object_store.put("other/config.json", b'{"architectures": ["BertModel"]}')
    with pytest.raises(CheckpointError, match=r"s3://data/other/config.json cannot be used: "):
        load_pretrained("s3://data/other")
    with pytest.raises(CheckpointError, match=r"s3://data/nothing is no export.*does not exist"):
        load_pretrained("s3://data/nothing")
    with pytest.raises(ConfigError, match=r"revision=main: s3://data/other has no revisions"):
        load_pretrained("s3://data/other", revision="main")


def test_a_server_that_fails_is_asked_again_and_then_said(exports):
    with listening(objects(exports[0], "mine")) as server:
        server.broken = True
        with pytest.raises(RemoteError, match=rf"given up after 3 attempts.*{server.url}/mine/config.json"):
            load_pretrained(f"{server.url}/mine")
    with pytest.raises(RemoteError, match="cannot be downloaded"):
        load_pretrained(f"{server.url}/mine")


def test_credentials_in_an_address_are_refused_and_not_repeated():
    for url in ("https://me:SECRET@host/mine", "https://host/mine?X-Amz-Signature=SECRET", "s3://me:SECRET@bucket/a"):
        with pytest.raises(ConfigError, match="with credentials in it") as raised:
            load_pretrained(url)
        assert "SECRET" not in str(raised.value)


def test_an_export_is_inspected_without_its_weights(object_store, exports, capsys):
    url = object_store.put_folder("inspected", exports[0])
    assert main(["inspect", url]) == 0
    out = capsys.readouterr().out
    assert f"export {url}: purpose random weights, weights of 0." in out
    assert "# first" in out
    assert "Thus." not in out
    assert object_store.fetched(f"inspected/{WEIGHTS_FILE}") == 0


# --- push -------------------------------------------------------------------------------------------------------------


def pushed(url: str, folder: Path) -> bool:
    return UrlHub(url).push(folder, True, None).changed


@pytest.mark.parametrize("scheme", ["s3", "file"])
def test_what_is_pushed_is_pulled_and_pushing_it_again_changes_nothing(object_store, exports, tmp_path, scheme):
    url = "s3://data/pushed" if scheme == "s3" else f"file://{tmp_path}/pushed"
    assert pushed(url, exports[0])
    assert same_weights(url, exports[0])
    assert not pushed(url, exports[0])
    assert pushed(url, exports[1])
    assert same_weights(url, exports[1])


def test_a_card_alone_is_replaced_and_an_old_evaluation_removed(object_store, exports, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(exports[0], folder)
    (folder / EVALUATION_FILE).write_text("{}")
    (folder / "notes.txt").write_text("mine")
    url = "s3://data/card"
    assert pushed(url, folder)
    (folder / CARD_FILE).write_text("other")
    (folder / EVALUATION_FILE).unlink()
    assert pushed(url, folder)
    assert not pushed(url, folder)
    puts = [line for line in object_store.log.read_text().splitlines() if '"PUT /data/card/' in line]
    assert [sum(f"/{name} " in line for line in puts) for name in (WEIGHTS_FILE, CARD_FILE, "notes.txt")] == [1, 2, 0]
    copy = UrlHub(url).fetch().folder
    assert sorted(path.name for path in copy.iterdir()) == [CARD_FILE, CONFIG_FILE, WEIGHTS_FILE]
    assert (copy / CARD_FILE).read_text() == "other"


def test_a_push_that_breaks_off_leaves_nothing_that_loads_and_the_next_finishes_it(object_store, exports, monkeypatch):
    url = "s3://data/broken"
    pushed(url, exports[0])
    allowed = requests = 0

    def breaking(real):
        def request(*arguments):
            nonlocal requests
            requests += 1
            if requests > allowed:
                raise KeyboardInterrupt
            return real(*arguments)

        return request

    for name in ("remove", "upload", "write"):
        monkeypatch.setattr(urls, name, breaking(getattr(urls, name)))
    states = []
    while True:
        requests = 0
        try:
            pushed(url, exports[1])
            break
        except KeyboardInterrupt:
            allowed += 1
        try:
            states.append(same_weights(url, exports[0]))
        except CheckpointError as error:
            states.append(str(error).partition(": ")[0])
    assert states == [True, *2 * [f"{url} is no export, whole and readable"]]
    assert same_weights(url, exports[1])


def test_what_is_no_export_is_not_overwritten(object_store, exports):
    object_store.put("theirs/config.json", b'{"architectures": ["BertModel"]}')
    with pytest.raises(ConfigError, match="s3://data/theirs holds something else"):
        pushed("s3://data/theirs", exports[0])


def test_a_configuration_of_which_a_part_was_written_is_no_obstacle(exports, tmp_path):
    url = f"file://{tmp_path}/half"
    pushed(url, exports[0])
    for size in (0, 100):
        (tmp_path / "half" / CONFIG_FILE).write_bytes((exports[0] / CONFIG_FILE).read_bytes()[:size])
        with pytest.raises(CheckpointError, match=r"half/config.json cannot be "):
            load_pretrained(url)
        assert pushed(url, exports[0])
        assert same_weights(url, exports[0])


def test_options_that_a_url_does_not_have_are_refused(tmp_path):
    hub = UrlHub("s3://data/options")
    with pytest.raises(ConfigError, match="push_tag=v1: s3://data/options has no tags"):
        hub.check(True, "v1")
    with pytest.raises(ConfigError, match="push_private=false: who can read"):
        hub.check(False, None)
    with pytest.raises(ConfigError, match="nothing is written to a web server"):
        UrlHub("https://host/mine").check(True, None)
