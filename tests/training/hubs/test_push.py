"""Pushes to Hugging Face: one commit of what differs, private, tagged, resumed, by the unmodified client."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from molstream import load_pretrained
from molstream.cli.main import main
from molstream.errors import ConfigError, DataError, MolstreamError, RemoteError
from molstream.training.checkpoint.exported import CARD_FILE, CONFIG_FILE, EVALUATION_FILE, WEIGHTS_FILE
from molstream.training.hubs import hugging_face
from molstream.training.hubs.base import Pushed
from molstream.training.hubs.source import push_target
from molstream.training.inference.config import ExportConfig
from tests.support.hub_server import STRANGER
from tests.training.hubs.conftest import FAST

NAME = "org/encoder"


@pytest.fixture(autouse=True)
def in_no_time(token: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits up to 8 s between its own attempts."""
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)


def push(folder: Path, url: str = f"hf://{NAME}", private: bool = True, tag: str | None = None) -> Pushed:
    return push_target(url, private, tag).push(folder, private, tag)


def same_weights(source: str, folder: Path) -> bool:
    found, expected = load_pretrained(source).state_dict(), load_pretrained(folder).state_dict()
    return all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize("part_bytes", [None, 10_000])
def test_what_is_pushed_is_pulled_and_pushing_it_again_changes_nothing(hub, exports, part_bytes):
    hub.part_bytes = part_bytes
    first = push(exports[0])
    repository = hub.repositories[NAME]
    assert first == Pushed(f"hf://{NAME}@{repository.branches['main']}", True)
    assert repository.private
    assert same_weights(first.address, exports[0])
    size = (exports[0] / WEIGHTS_FILE).stat().st_size
    assert hub.count("PUT", "/storage/") == (1 if part_bytes is None else -(-size // part_bytes))
    commits = len(repository.commits)
    assert push(exports[0]) == Pushed(first.address, False)
    assert len(repository.commits) == commits
    second = push(exports[1])
    assert second.changed
    assert len(repository.commits) == commits + 1
    assert same_weights(f"hf://{NAME}", exports[1])
    assert same_weights(first.address, exports[0])


def test_what_the_folder_has_not_goes_and_other_files_stay(hub, exports, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(exports[0], folder)
    (folder / EVALUATION_FILE).write_text("{}")
    (folder / "notes.txt").write_text("mine")
    push(folder)
    uploads = hub.count("PUT", "/storage/")
    (folder / EVALUATION_FILE).unlink()
    (folder / CARD_FILE).write_text("other")
    assert push(folder).changed
    files = hub.repositories[NAME].commits[hub.repositories[NAME].branches["main"]]
    assert sorted(files) == [".gitattributes", CARD_FILE, CONFIG_FILE, WEIGHTS_FILE]
    assert files[CARD_FILE] == b"other"
    assert hub.count("PUT", "/storage/") == uploads


def test_a_branch_and_a_tag_are_made_and_a_tag_never_moves(hub, exports):
    first = push(exports[0], f"hf://{NAME}@next", tag="v1")
    repository = hub.repositories[NAME]
    assert f"hf://{NAME}@{repository.tags['v1']}" == first.address == f"hf://{NAME}@{repository.branches['next']}"
    assert CONFIG_FILE not in repository.commits[repository.branches["main"]]
    assert push(exports[0], f"hf://{NAME}@next", tag="v1") == Pushed(first.address, False)
    before = len(repository.commits)
    with pytest.raises(ConfigError, match=r"push_tag=v1: hf://org/encoder@next has this tag at the commit"):
        push(exports[1], f"hf://{NAME}@next", tag="v1")
    assert len(repository.commits) == before
    second = push(exports[1], f"hf://{NAME}@next", tag="v2")
    assert f"hf://{NAME}@{repository.tags['v2']}" == second.address
    assert same_weights(f"hf://{NAME}@v1", exports[0])


def test_a_public_repository_is_not_pushed_to_unasked(hub, exports):
    hub.add(NAME, exports[0])
    with pytest.raises(ConfigError, match=r"hf://org/encoder is public, and push_private=true"):
        push(exports[1])
    assert len(hub.repositories[NAME].commits) == 1
    assert push(exports[1], private=False).changed
    push(exports[0], "hf://org/open", private=False)
    assert not hub.repositories["org/open"].private


def test_a_repository_of_something_else_is_not_overwritten(hub, exports, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / CONFIG_FILE).write_text('{"architectures": ["BertModel"]}')
    hub.add(NAME, theirs, private=True)
    with pytest.raises(ConfigError, match="hf://org/encoder holds something else"):
        push(exports[0])


def refusal(*arguments: object, **options: object) -> MolstreamError:
    with pytest.raises(MolstreamError) as raised:
        push(*arguments, **options)
    assert "SECRET" not in str(raised.value)
    return raised.value


def test_who_may_not_push_is_told_so(hub, exports, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    found = refusal(exports[0])
    assert isinstance(found, ConfigError)
    assert "the server answers 403" in str(found)
    assert "has no right to this" in str(found)
    monkeypatch.setenv("HF_TOKEN", "hf_unknownSECRET")
    assert "it does not know the token" in str(refusal(exports[0]))
    monkeypatch.delenv("HF_TOKEN")
    before = len(hub.asked)
    assert "there is no token of Hugging Face. Log in with `hf auth login`" in str(refusal(exports[0]))
    assert len(hub.asked) == before
    assert "with credentials in it" in str(refusal(exports[0], "hf://me:SECRET@org/encoder"))
    assert not hub.repositories


def test_a_card_whose_metadata_the_hub_refuses_is_said(hub, exports, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(exports[0], folder)
    (folder / CARD_FILE).write_text("---\ntags: [\n---\n")
    found = refusal(folder)
    assert isinstance(found, DataError)
    assert "Invalid metadata in README.md" in str(found)


@pytest.mark.parametrize("status", [500, 429])
def test_whatever_request_fails_the_same_push_finishes_it(hub, exports, status, caplog):
    """Requests fail for ever from the first, second, ... on; then the server is well again."""
    push(exports[0])
    hub.part_bytes = 60_000
    start = allowed = 0

    def answer(method: str, path: str) -> int | None:
        return status if len(hub.asked) - start > allowed else None

    while True:
        start, hub.answer_with = len(hub.asked), answer
        try:
            done = push(exports[1])
            break
        except RemoteError as error:
            found = error
        hub.answer_with = lambda method, path: None
        assert f"hf://{NAME}" in str(found)
        assert "SECRET" not in str(found)
        # Until the commit is made, the old export is there, and from then on the new one.
        assert same_weights(f"hf://{NAME}", exports[0])
        allowed += 1
    hub.answer_with = lambda method, path: None
    assert allowed >= 10
    assert f"HTTP Error {status}" in caplog.text
    assert "SECRET" not in caplog.text
    assert done.changed
    assert same_weights(f"hf://{NAME}", exports[1])


def test_requests_that_fail_once_do_not_end_a_push(hub, exports, monkeypatch):
    failed: set[tuple[str, str]] = set()

    def once(method: str, path: str) -> int | None:
        if (method, path) in failed:
            return None
        failed.add((method, path))
        return 500 if len(failed) % 2 else 429

    hub.answer_with = once
    monkeypatch.setattr(hugging_face, "PUSH_RETRIES", replace(FAST, attempts=30))
    assert push(exports[0]).changed
    hub.answer_with = lambda method, path: None
    assert same_weights(f"hf://{NAME}", exports[0])


def test_a_hub_without_the_storage_that_the_client_wants_is_an_error(hub, exports, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    found = refusal(exports[0])
    assert isinstance(found, RemoteError)
    assert f"hf://{NAME} cannot be written" in str(found)


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub, exports, monkeypatch):
    push(exports[0])
    repository, real = hub.repositories[NAME], type(hub.repositories[NAME]).commit
    lost = []

    def commit(self, branch, files):
        oid = real(self, branch, files)
        if not lost:
            lost.append(oid)
            raise ConnectionAbortedError
        return oid

    before = len(repository.commits)
    monkeypatch.setattr(type(repository), "commit", commit)
    assert push(exports[1]).address == f"hf://{NAME}@{lost[0]}"
    assert len(repository.commits) == before + 1
    assert same_weights(f"hf://{NAME}", exports[1])


def test_two_pushes_at_a_time_are_never_mixed(hub, exports, tmp_path):
    """Another export arrives after this push has seen what differs, the card alone, and before its commit."""
    push(exports[0])
    folder = tmp_path / "export"
    shutil.copytree(exports[0], folder)
    (folder / CARD_FILE).write_text("other")
    repository, theirs = hub.repositories[NAME], {file.name: file.read_bytes() for file in exports[1].iterdir()}

    def answer(method: str, path: str) -> None:
        if "/commit/" in path and theirs:
            repository.commit("main", dict(theirs))
            theirs.clear()

    hub.answer_with = answer
    assert push(folder).changed
    assert not theirs
    assert same_weights(f"hf://{NAME}", exports[0])
    assert repository.commits[repository.branches["main"]][CARD_FILE] == b"other"


def test_options_without_a_push_and_a_push_to_a_folder_are_refused():
    with pytest.raises(ConfigError, match="belong to push=URL"):
        ExportConfig(run_dir="runs/mine", push_tag="v1")
    with pytest.raises(ConfigError, match="A folder is given as output=FOLDER"):
        ExportConfig(run_dir="runs/mine", push="exports/mine")


def test_the_command_pushes_what_it_exports_and_prints_the_commit(hub, small_run, tmp_path, capsys):
    words = ["export", f"run_dir={small_run}", f"output={tmp_path}/encoder", "purpose=test", f"push=hf://{NAME}"]
    for is_first in (True, False):
        assert main([*words, "push_tag=v1"]) == 0
        out, err = capsys.readouterr()
        commit = hub.repositories[NAME].branches["main"]
        assert out.splitlines() == [f"{tmp_path}/encoder", f"hf://{NAME}@{commit}"]
        assert (f"hf://{NAME} has this export already: nothing was pushed" in err) is not is_first
    assert hub.repositories[NAME].tags == {"v1": commit}
    words = ["export", f"run_dir={small_run}", f"output={tmp_path}/other", "push=s3://bucket/x", "push_tag=v1"]
    assert main(words) == 2
    assert "push_tag=v1: s3://bucket/x has no tags" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert main(["embed", f"export={NAME}", "revision=v9", "input=a.smi", f"output={tmp_path}/a.npy"]) == 1
    assert "has no such revision" in capsys.readouterr().err
