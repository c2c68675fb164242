"""Credentials in addresses: refused where they would be stored, and never written where they are used."""

import json
import shutil
from pathlib import Path

import pytest

from molstream.cli.main import main
from molstream.compose import configure
from molstream.errors import ConfigError
from molstream.training.config import PretrainConfig
from tests.support.command_lines import USAGE, refused
from tests.support.datasets import molecules, molstream
from tests.support.listener import listening

SECRET = "S3cretS3cret"
PASSWORD, SIGNED = f"s3://key:{SECRET}@bucket/mine", f"https://host/mine?X-Amz-Signature={SECRET}"
PRETRAIN = "pretrain run_dir=HERE/run"


def assert_nowhere(*texts: str, folder: Path | None = None) -> None:
    """Neither a text nor a file, nor the name of one, has the secret."""
    for text in texts:
        assert SECRET not in text, text
    for path in folder.rglob("*") if folder else ():
        assert SECRET not in path.name
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    "line",
    [
        f"{PRETRAIN} data.path={PASSWORD}",
        f"{PRETRAIN} data.path={SIGNED}",
        f"{PRETRAIN} 'data.mix=[{{path: a, weight: 3}}, {{path: \"{PASSWORD}\", weight: 1}}]'",
        f"{PRETRAIN} data.path=DATASET data.validation={SIGNED}",
        f"{PRETRAIN} data.path=DATASET checkpoint_url={PASSWORD}",
        f"{PRETRAIN} data.path=DATASET checkpoint_url={SIGNED}",
        f"{PRETRAIN} data.path=DATASET init_from={SIGNED}",
        f"{PRETRAIN} data.path=DATASET log.project={PASSWORD}",
        f"preprocess input={PASSWORD}.csv output=HERE/out",
        f"preprocess 'input=[a.csv, {{path: \"{PASSWORD}\"}}]' output=HERE/out",
        f"preprocess input=CSV decontaminate={PASSWORD} output=HERE/out",
        f"preprocess input=CSV output={SIGNED}",
        f"embed export=EXPORT input={PASSWORD}.csv output=HERE/v.parquet",
        f"inspect {PASSWORD}",
        f"inspect {SIGNED}",
        f"diagnose run_dir=RUN dataset={SIGNED}",
    ],
)
def test_credentials_are_refused_where_they_would_be_stored(places, capfd, line):
    before = sorted(places.HERE.iterdir())
    refused(places, capfd, line, USAGE, "credentials by the environment")
    main(places.words(line))
    assert_nowhere(*capfd.readouterr())
    assert sorted(places.HERE.iterdir()) == before


def test_python_s_own_calls_are_refused_alike():
    for values in ({"data": {"path": PASSWORD}}, {"data": {"path": "a"}, "checkpoint_url": SIGNED}):
        with pytest.raises(ConfigError, match="credentials by the environment") as found:
            configure("pretrain", PretrainConfig, {"run_dir": "run", **values})
        assert_nowhere(str(found.value))


@pytest.mark.parametrize("line", [SIGNED, f"preprocess {SIGNED}", f"inspect RUN {SIGNED}", f"pretrain x{SIGNED}"])
def test_no_message_of_a_wrong_command_line_repeats_one(places, capfd, line):
    assert main(places.words(line)) == USAGE
    assert_nowhere(*capfd.readouterr())


def test_a_signed_input_is_used_and_written_nowhere(tmp_path):
    content = "smiles\n" + "\n".join(molecules()[:5]) + "\nC(C\n"
    output = tmp_path / "out"
    with listening({"/a/molecules.csv": content.encode()}) as server:
        url = f"{server.url}/a/molecules.csv?X-Amz-Date=1&X-Amz-Signature={SECRET}"
        line = ("preprocess", f"input={url}", f"output={output}", "conformers=none", "max_rejected_fraction=1")
        made = molstream(*line)
        again = molstream(*line)
        assert any(SECRET in asked for asked in server.asked)
        server.objects["/a/molecules.csv"] = (content + "CCCC\n").encode()
        changed = molstream(*line, check=False)
    assert "nothing to do" in again.stderr
    assert changed.returncode != 0
    for done in (made, again, changed):
        assert_nowhere(done.stdout, done.stderr)
    assert_nowhere(folder=tmp_path)
    assert json.loads((output / "plan.json").read_text())["sources"][0]["name"] == "molecules.csv"


def test_no_error_of_a_server_repeats_one(places, capfd):
    with listening({"/m.csv": b"smiles\nC\n"}) as server:
        server.broken = True
        url = f"{server.url}/m.csv?sig={SECRET}"
        assert main(["preprocess", f"input={url}", f"output={places.HERE}/out"]) == 1
        out, err = capfd.readouterr()
        assert f"{server.url}/m.csv cannot be downloaded: 500" in err
    for address in (url, f"https://127.0.0.1:9/m.csv?token={SECRET}", f"nosuch://a/m.csv?sig={SECRET}"):
        assert main(["preprocess", f"input={address}", f"output={places.HERE}/out"]) in (1, 2)
        assert_nowhere(out, err, *capfd.readouterr(), folder=places.HERE)


def test_the_address_of_a_tracking_server_is_kept_nowhere(small_run, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    # A process of its own: the logger's thread tries on until it ends.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:9")
    sync = molstream("sync", f"run_dir={run}", "loggers=[tensorboard,mlflow]", "timeout_s=3", check=False)
    assert sync.returncode == 1
    assert "mlflow has confirmed the records up to step 0 of 6" in sync.stderr
    assert_nowhere(sync.stdout, sync.stderr, folder=run)
