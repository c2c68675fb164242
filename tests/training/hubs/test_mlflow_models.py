"""MLflow's model registry: pushed and pulled through a real server on SQLite."""

from pathlib import Path

import pytest

from molstream import load_pretrained
from molstream.cli.main import main
from molstream.errors import CheckpointError, ConfigError, RemoteError
from molstream.training.checkpoint.exported import WEIGHTS_FILE
from molstream.training.hubs.base import Pushed
from molstream.training.hubs.source import push_target
from tests.support.loaded import same_weights
from tests.support.mlflow_server import requires_mlflow

pytestmark = [requires_mlflow, pytest.mark.usefixtures("mlflow_server")]


def push(folder: Path, url: str, tag: str | None = None) -> Pushed:
    return push_target(url, True, tag).push(folder, True, tag)


def test_every_content_is_a_version_and_an_alias_names_one(exports, capsys):
    url = "mlflow://encoder"
    assert push(exports[0], url, "champion") == Pushed("mlflow://encoder/1", True)
    assert push(exports[0], url) == Pushed("mlflow://encoder/1", False)
    assert push(exports[1], url) == Pushed("mlflow://encoder/2", True)
    assert same_weights(url, exports[1])
    for source, revision in ((url, "1"), (url, "champion"), (f"{url}/1", None), (f"{url}/champion", None)):
        assert same_weights(source, exports[0], revision)
    push(exports[1], url, "champion")
    assert same_weights(f"{url}/champion", exports[1])
    capsys.readouterr()
    assert main(["inspect", f"{url}/1"]) == 0
    out = capsys.readouterr().out
    assert "export mlflow://encoder/1: purpose random weights" in out
    assert "# first" in out


def test_a_push_that_breaks_off_registers_nothing_and_is_finished_by_the_next(exports, monkeypatch):
    from mlflow.tracking import MlflowClient

    names = ("create_registered_model", "create_run", "log_artifact", "create_model_version")
    allowed = requests = 0

    def breaking(real):
        def request(*arguments, **options):
            nonlocal requests
            requests += 1
            if requests > allowed:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return request

    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(MlflowClient, name, breaking(getattr(MlflowClient, name)))
        while True:
            requests = 0
            try:
                done = push(exports[0], "mlflow://broken")
                break
            except KeyboardInterrupt:
                allowed += 1
            with pytest.raises(CheckpointError, match="mlflow://broken: the server has no model of this name"):
                load_pretrained("mlflow://broken")
    assert done == Pushed("mlflow://broken/1", True)
    assert allowed >= 5
    assert same_weights("mlflow://broken", exports[0])


def test_what_is_not_there_is_said(exports, tmp_path, monkeypatch):
    push(exports[0], "mlflow://known")
    with pytest.raises(
        CheckpointError, match=r"mlflow://known/9: the model has no such version or alias. Its .* are 1"
    ):
        load_pretrained("mlflow://known", revision="9")
    with pytest.raises(CheckpointError, match="mlflow://unknown: the server has no model of this name"):
        load_pretrained("mlflow://unknown")
    with pytest.raises(ConfigError, match=r"revision=2: mlflow://known/1 has another one"):
        load_pretrained("mlflow://known/1", revision="2")
    with pytest.raises(ConfigError, match=r"expected mlflow://NAME"):
        load_pretrained("mlflow://known/1/2")
    for url, tag, part in (
        ("mlflow://known/1", None, "the server numbers the versions"),
        ("mlflow://known", "3", "expected an alias of MLflow"),
    ):
        with pytest.raises(ConfigError, match=part):
            push(exports[0], url, tag)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RemoteError, match=r"mlflow://known cannot be looked up.*Check MLFLOW_TRACKING_URI"):
        load_pretrained("mlflow://known")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI is not set"):
        load_pretrained("mlflow://known")


def test_a_model_that_is_no_export_is_refused(exports, tmp_path):
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    run = client.create_run("0")
    (tmp_path / "MLmodel").write_text("flavors: {}")
    client.log_artifact(run.info.run_id, str(tmp_path / "MLmodel"), "model")
    client.create_registered_model("theirs")
    client.create_model_version("theirs", f"runs:/{run.info.run_id}/model", run.info.run_id)
    with pytest.raises(CheckpointError, match=r"mlflow://theirs/1 is no export: it has no config.json, but MLmodel"):
        load_pretrained("mlflow://theirs")


def test_an_artifact_that_was_cut_off_is_an_error(exports, mlflow_server):
    push(exports[0], "mlflow://cut")
    whole = (exports[0] / WEIGHTS_FILE).read_bytes()
    for file in (mlflow_server.folder / "artifacts").rglob(WEIGHTS_FILE):
        if file.read_bytes() == whole:
            file.write_bytes(whole[:-5])
    with pytest.raises(CheckpointError, match=rf"mlflow://cut/1/{WEIGHTS_FILE} differs from its checksum"):
        load_pretrained("mlflow://cut")
