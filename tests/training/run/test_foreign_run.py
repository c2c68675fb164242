"""A run from elsewhere is data: nothing in its configuration is resolved, and no address in it is contacted unasked."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from molstream.cli.main import main
from molstream.errors import ConfigError
from molstream.training.inference.pretrained import load_pretrained
from molstream.training.run.directory import TRUSTED_VARIABLE
from tests.support.datasets import DRUGS, write_csv
from tests.support.listener import Listener, listening

SECRET = "a-secret-of-the-environment"
RESOLVED = "${oc.env:MOLSTREAM_TEST_SECRET}"


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setenv("MOLSTREAM_TEST_SECRET", SECRET)
    with listening() as server:
        yield server


def copied(run: Path, target: Path, **values: object) -> Path:
    """A copy of a run with other values in its configuration."""
    shutil.copytree(run, target)
    tree = yaml.safe_load((target / "config.yaml").read_text())
    (target / "config.yaml").write_text(yaml.safe_dump({**tree, **values}))
    return target


@pytest.fixture
def foreign(small_run: Path, tmp_path: Path, listener: Listener) -> Path:
    """A run whose configuration names a server, with a reference to the environment, wherever it can."""
    url = f"{listener.url}/{RESOLVED}"
    data = {"path": url, "lanes": 2, "micro_batch": 8, "cache_dir": f"{tmp_path}/{RESOLVED}", "validation": url}
    log = {"loggers": ["tensorboard"], "project": url}
    return copied(small_run, tmp_path / "run", checkpoint_url=url, init_from=url, data=data, log=log)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("inspect RUN", 0),
        ("report RUN", 0),
        ("sync run_dir=RUN timeout_s=20", 0),
        ("export run_dir=RUN", 2),
        ("embed export=RUN input=CSV output=OUT.csv representation=2d", 2),
        ("generate conformers run_dir=RUN input=CSV output=OUT", 2),
        ("diagnose run_dir=RUN", 2),
    ],
)
def test_no_command_contacts_the_addresses_of_a_run(foreign, listener, tmp_path, capfd, line, code):
    csv = write_csv(tmp_path / "molecules.csv", list(DRUGS[:2]))
    words = {"RUN": foreign, "CSV": csv, "OUT": tmp_path / "out"}
    for name, path in words.items():
        line = line.replace(name, str(path))
    assert main(line.split()) == code
    out, err = capfd.readouterr()
    assert listener.asked == []
    assert SECRET not in out + err
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert SECRET.encode() not in file.read_bytes(), file
    if code:
        assert f"refers to {listener.url}/" in err
        assert f"export {TRUSTED_VARIABLE}=" in err


def test_a_dataset_at_a_url_is_streamed_with_consent_alone(small_run, dataset, tmp_path, listener, monkeypatch, capfd):
    monkeypatch.setenv("HOME", str(tmp_path))
    data = {"path": f"{listener.url}/shards", "lanes": 2, "micro_batch": 8, "cache_dir": f"{tmp_path}/theirs"}
    run = copied(small_run, tmp_path / "run", data=data)
    line = ["diagnose", f"run_dir={run}", "batches=1"]
    assert main(line) == 2
    assert listener.asked == []
    listener.objects = {f"/shards/{file.name}": file.read_bytes() for file in dataset.iterdir() if file.is_file()}
    monkeypatch.setenv(TRUSTED_VARIABLE, f"s3://mine {listener.url}/shards/")
    assert main(line) == 0, capfd.readouterr().err
    assert "/shards/manifest.json" in listener.asked
    assert not (tmp_path / "theirs").exists()


def test_checkpoints_at_a_url_are_loaded_with_consent_alone(small_run, tmp_path, monkeypatch):
    url = f"file://{tmp_path}/store/mine"
    run = copied(small_run, tmp_path / "run", checkpoint_url=url)
    (run / "checkpoints").rename(tmp_path / "kept")
    shutil.copytree(tmp_path / "kept", tmp_path / "store" / "mine")
    for beginning in ("", f"file://{tmp_path}/stor", f"file://{tmp_path}/store/min", "file://x file://y"):
        monkeypatch.setenv(TRUSTED_VARIABLE, beginning)
        with pytest.raises(ConfigError, match=r"run refers to file:.*store/mine\. .* export MOLSTREAM_TRUSTED_URLS="):
            load_pretrained(run)
    for beginning in (url, f"file://{tmp_path}/store/", f"s3://mine file://{tmp_path}/store"):
        monkeypatch.setenv(TRUSTED_VARIABLE, beginning)
        assert load_pretrained(run).description["step"] == 6
