"""Hugging Face: pulls by name and revision, cache, offline, errors, by the unmodified client from a server here."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from molstream import MoleculeEmbedder, load_pretrained
from molstream.cli.main import main
from molstream.errors import CheckpointError, ConfigError, MolstreamError, RemoteError
from molstream.training.checkpoint.exported import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, read_weights
from molstream.training.checkpoint.load import initial_weights
from molstream.training.hubs.source import push_target
from tests.support.datasets import DRUGS, molecules
from tests.support.hub_server import STRANGER, TOKEN, point_client_to
from tests.support.loaded import same_weights

NAME = "org/encoder"


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_an_encoder_is_pulled_by_name_once_and_nothing_else_of_its_repository(hub, exports, home):
    hub.add(NAME, exports[0])
    files = hub.repositories[NAME].commits[hub.repositories[NAME].branches["main"]]
    files |= {"model.py": b"raise SystemExit", "pytorch_model.bin": b"pickle", "sub/config.json": b"{}"}
    expected = MoleculeEmbedder(exports[0], representation="2d").transform(DRUGS[:3])
    for source in (NAME, f"hf://{NAME}"):
        found = MoleculeEmbedder.from_pretrained(source, representation="2d").transform(DRUGS[:3])
        np.testing.assert_array_equal(found, expected)
    assert hub.count("GET", "/cdn/") == 1
    (snapshot,) = (home / "hf" / "hub" / "models--org--encoder" / "snapshots").iterdir()
    assert sorted(path.name for path in snapshot.iterdir()) == [CARD_FILE, CONFIG_FILE, WEIGHTS_FILE]


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, exports):
    first = hub.add(NAME, exports[0])
    repository = hub.repositories[NAME]
    repository.tags["v1"] = first
    second = repository.commit("main", {file.name: file.read_bytes() for file in exports[1].iterdir()})
    repository.branches["feature/x"] = first
    assert same_weights(NAME, exports[1])
    for revision in ("v1", first, "feature/x"):
        assert same_weights(NAME, exports[0], revision)
    for source in (f"hf://{NAME}@v1", f"hf://{NAME}@{first}", f"hf://{NAME}@feature%2Fx"):
        assert same_weights(source, exports[0])
    assert same_weights(f"hf://{NAME}@{second}", exports[1], second)
    # What main was is downloaded no more, what it is now is.
    repository.branches["main"] = first
    assert same_weights(NAME, exports[0])
    assert hub.count("GET", "/cdn/") == 2
    with pytest.raises(ConfigError, match=r"revision=v2: hf://org/encoder@v1 has another one"):
        load_pretrained(f"hf://{NAME}@v1", revision="v2")


def test_all_commands_that_take_an_encoder_take_a_repository(hub, exports, tmp_path, capsys, monkeypatch):
    commit = hub.add(NAME, exports[0])
    hub.repositories[NAME].tags["v1"] = commit
    hub.repositories[NAME].commit("main", {CONFIG_FILE: b"{}"})
    (tmp_path / "drugs.smi").write_text("\n".join(DRUGS[:3]))
    words = [f"input={tmp_path}/drugs.smi", f"output={tmp_path}/drugs.npy", "representation=2d", "num_cpus=1"]
    assert main(["embed", f"export={NAME}", "revision=v1", *words]) == 0
    expected = MoleculeEmbedder(exports[0], representation="2d").transform(DRUGS[:3])
    np.testing.assert_allclose(np.load(tmp_path / "drugs.npy"), expected, rtol=1e-4, atol=1e-5)
    first, second = ({f"encoders.{n}": t for n, t in read_weights(folder).items()} for folder in exports)
    weights, told = initial_weights(second, f"hf://{NAME}@v1")
    assert all(torch.equal(weights[name], tensor) for name, tensor in first.items())
    assert f"hf://{NAME}@{commit}" in told
    capsys.readouterr()
    asked = hub.count("GET", "/cdn/")
    assert main(["inspect", f"hf://{NAME}@v1"]) == 0
    out = capsys.readouterr().out
    assert f"export hf://{NAME}@{commit}: purpose random weights, weights of 0." in out
    assert "# first" in out
    assert hub.count("GET", "/cdn/") == asked


@pytest.mark.slow
def test_vectors_of_a_repository_are_evaluated(hub, exports, tmp_path):
    commit = hub.add(NAME, exports[0])
    hub.repositories[NAME].tags["v1"] = commit
    rows = "".join(f"{smiles},{number}\n" for number, smiles in enumerate(molecules()[:30]))
    (tmp_path / "molecules.csv").write_text(f"smiles,value\n{rows}")
    words = [f"export={NAME}", "revision=v1", f"input={tmp_path}/molecules.csv", "target=value", "folds=random"]
    assert main(["evaluate", "vectors", *words, f"output={tmp_path}/eval.json", "untrained_seeds=1", "num_cpus=1"]) == 0
    result = json.loads((tmp_path / "eval.json").read_text())
    assert (result["export"], result["revision"]) == (NAME, "v1")
    assert result["weights_sha256"] == hashlib.sha256((exports[0] / WEIGHTS_FILE).read_bytes()).hexdigest()
    assert hub.count("GET", f"/resolve/{commit}/") > 0


def test_a_folder_of_this_name_goes_before_the_repository(hub, exports, tmp_path, monkeypatch):
    hub.add(NAME, exports[0])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / NAME).symlink_to(exports[1])
    assert same_weights(NAME, exports[1])
    assert same_weights(f"hf://{NAME}", exports[0])
    with pytest.raises(ConfigError, match=r"revision=v1: the encoder=org/encoder is a path on this machine.*hf://"):
        load_pretrained(NAME, revision="v1")


def test_without_a_network_the_cache_is_used_and_only_it(hub, exports, monkeypatch):
    commit = hub.add(NAME, exports[0])
    load_pretrained(NAME)
    offline(monkeypatch)
    before = len(hub.asked)
    for revision in (None, "main", commit):
        assert same_weights(NAME, exports[0], revision)
    assert main(["inspect", f"hf://{NAME}"]) == 0
    for source, revision in (("org/other", None), (NAME, "v2")):
        with pytest.raises(CheckpointError, match="is not in the cache of Hugging Face, and HF_HUB_OFFLINE is set"):
            load_pretrained(source, revision=revision)
    assert len(hub.asked) == before


def test_what_is_cached_is_used_where_the_hub_does_not_answer(hub, exports, home, monkeypatch):
    hub.add(NAME, exports[0])
    load_pretrained(NAME)
    hub.answer_with = lambda method, path: 500
    assert same_weights(NAME, exports[0])
    point_client_to("http://127.0.0.1:9", home / "hf", monkeypatch)
    assert same_weights(NAME, exports[0])


def test_a_private_repository_needs_the_token_of_the_environment_or_the_login(hub, exports, home, monkeypatch):
    hub.add(NAME, exports[0], private=True)
    with pytest.raises(CheckpointError, match=r"does not exist, or is private.*hf auth login"):
        load_pretrained(NAME)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert same_weights(NAME, exports[0])
    monkeypatch.delenv("HF_TOKEN")
    hub.add("org/second", exports[1], private=True)
    (home / "hf" / "token").write_text(TOKEN)
    assert same_weights("org/second", exports[1])


def refusal(source: str, revision: str | None = None) -> MolstreamError:
    with pytest.raises(MolstreamError) as raised:
        load_pretrained(source, revision=revision)
    assert "SECRET" not in str(raised.value)
    assert "\n" not in str(raised.value)
    return raised.value


def test_every_refusal_is_one_sentence_that_says_what_to_do(hub, exports, monkeypatch):
    hub.add(NAME, exports[0])
    hub.add("org/gated", exports[0], is_gated=True)
    hub.repositories[NAME].tags["v1"] = hub.repositories[NAME].branches["main"]

    def told(error: type[MolstreamError], part: str, source: str = NAME, revision: str | None = None) -> None:
        found = refusal(source, revision)
        assert isinstance(found, error), found
        assert part in str(found)

    told(CheckpointError, "hf://org/gated is gated: its owners grant access on its page", "hf://org/gated")
    told(CheckpointError, "hf://org/encoder@v9 has no such revision: expected", revision="v9")
    told(CheckpointError, "It has main, v1.", revision="v9")
    told(CheckpointError, "org/missing: there is no such file or folder here, and as a repository", "org/missing")
    told(ConfigError, "expected hf://ORG/NAME", "hf://missing")
    told(ConfigError, "a repository of a model", "hf://datasets/org/name")
    told(ConfigError, "a repository of a model", f"hf://{NAME}/config.json")
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    told(CheckpointError, "hf://org/gated is gated", "org/gated")
    told(CheckpointError, "hf://org/missing does not exist, or is private", "hf://org/missing")
    monkeypatch.setenv("HF_TOKEN", "hf_unknownSECRET")
    told(ConfigError, "the server answers 401 (Invalid credentials in Authorization header)")
    monkeypatch.setenv("HF_TOKEN", "hf_\u20acSECRET")
    told(ConfigError, "the token has characters that no token has")
    monkeypatch.setenv("HF_TOKEN", "hf_\x0bSECRET")
    told(RemoteError, "Bearer ...")
    monkeypatch.delenv("HF_TOKEN")
    for status, part in ((500, "the server answers 500"), (429, "the server answers 429"), (503, "answers 503")):
        hub.answer_with = lambda method, path, status=status: status
        told(RemoteError, part)


def test_without_a_server_the_network_is_named(home, monkeypatch):
    point_client_to("http://127.0.0.1:9", home / "hf", monkeypatch)
    assert isinstance(refusal(NAME), RemoteError)
    assert "Check the network" in str(refusal(f"hf://{NAME}"))


def test_a_download_that_is_cut_off_is_an_error_and_the_next_one_finishes_it(hub, exports):
    hub.add(NAME, exports[0])
    hub.cut = 100
    found = refusal(NAME)
    assert isinstance(found, RemoteError)
    assert f"hf://{NAME} cannot be downloaded: Consistency check failed: file should be of size" in str(found)
    hub.cut = 0
    assert same_weights(NAME, exports[0])


def test_a_copy_that_was_damaged_in_the_cache_is_downloaded_again(hub, exports, home, monkeypatch):
    commit = hub.add(NAME, exports[0])
    load_pretrained(NAME)
    snapshot = home / "hf" / "hub" / "models--org--encoder" / "snapshots" / commit
    blob = (snapshot / WEIGHTS_FILE).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    assert same_weights(NAME, exports[0])
    blob.write_bytes(content)
    offline(monkeypatch)
    found = str(refusal(NAME))
    assert f"hf://{NAME}@{commit}/{WEIGHTS_FILE} differs from its checksum" in found
    assert str(snapshot) in found


def test_what_is_no_export_is_not_downloaded(hub, exports, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / CONFIG_FILE).write_text('{"architectures": ["BertModel"]}')
    (folder / WEIGHTS_FILE).write_bytes(b"large")
    hub.add(NAME, folder)
    assert f"hf://{NAME}@" in str(refusal(NAME))
    assert hub.count("GET", "/cdn/") == 0
    hub.repositories[NAME].commit("main", {"README.md": b"words"})
    assert "is not an export: expected a folder with config.json" in str(refusal(NAME))


@pytest.mark.usefixtures("token")
def test_another_process_with_another_cache_gets_the_same_vectors(hub, exports, tmp_path):
    push_target(f"hf://{NAME}", True, None).push(exports[0], True, None)
    program = (
        "import sys, numpy; from molstream import MoleculeEmbedder\n"
        "numpy.save(sys.argv[1], MoleculeEmbedder(sys.argv[2], device='cpu').transform(sys.argv[3:]))"
    )
    for source, name in ((NAME, "pulled"), (str(exports[0]), "here")):
        environment = {**os.environ, "HF_HOME": str(tmp_path / name)}
        words = [str(tmp_path / f"{name}.npy"), source, *DRUGS[:3]]
        subprocess.run([sys.executable, "-c", program, *words], env=environment, check=True, timeout=300)
    np.testing.assert_array_equal(np.load(tmp_path / "pulled.npy"), np.load(tmp_path / "here.npy"))
    assert (tmp_path / "pulled" / "hub" / "models--org--encoder").is_dir()
