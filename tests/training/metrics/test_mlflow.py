"""The MLflow logger against a real `mlflow server` with SQLite, which is asked what it has."""

import math
import socket

import pytest

from molstream.training.metrics.loggers import LOGGERS, Delivery, finish_all
from molstream.training.metrics.records import MetricsWriter, read_metrics
from molstream.training.run.history import read_launches
from tests.support.datasets import molstream
from tests.support.mlflow_server import MLflowServer, requires_mlflow
from tests.support.recorded import Messages, description, record, write_records
from tests.training.metrics.test_sinks import hand_over, wait_for

pytestmark = requires_mlflow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = MLflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def address(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)


@pytest.fixture
def client(server):
    from mlflow.tracking import MlflowClient

    return MlflowClient(server.uri)


def runs(client, name, project="molecules"):
    """The runs of a project that bear the name of a run directory."""
    experiment = client.get_experiment_by_name(project)
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return [run for run in found if run.info.run_name == name]


def history(client, run, name="train/loss"):
    """What the server has, as (step, value, time in s)."""
    return [(m.step, m.value, m.timestamp / 1000) for m in client.get_metric_history(run.info.run_id, name)]


def expected(*steps_and_offsets):
    records = [record(step, offset) for steps, offset in steps_and_offsets for step in steps]
    return [(r["step"], r["train/loss"], r["time"]) for r in records]


def test_a_run_and_its_restart_are_one_run_with_every_step_once(tmp_path, client):
    folder = tmp_path / "restarted"
    write_records(folder, 1, 120)
    hand_over(folder, "mlflow", restored=0, ended="failed", place="4 processes")
    (run,) = runs(client, "restarted")
    assert run.info.status == "FAILED"
    assert history(client, run) == expected((range(1, 121), 0.0))
    # Steps 101 to 120 are done again, on other processes.
    write_records(folder, 101, 130, offset=0.5)
    hand_over(folder, "mlflow", restored=100, place="2 processes")
    (run,) = runs(client, "restarted")
    assert run.info.status == "FINISHED"
    assert history(client, run) == expected((range(1, 121), 0.0), (range(121, 131), 0.5))
    assert history(client, run, "optim/grad_norm") == [(k, float(k), 1.7e9 + k) for k in range(1, 131)]
    assert run.data.params == {"model.name": "tiny", "steps": "12", "optim.lr": "0.0003", "init_from": "None"}
    assert run.data.tags["molstream.dataset"] == "f00d"
    assert run.data.tags["place"] == "2 processes"


def test_what_is_sent_again_because_an_answer_was_lost_is_there_once(tmp_path, client):
    folder = tmp_path / "repeated"
    write_records(folder, 1, 30)
    hand_over(folder, "mlflow", restored=0)
    state = folder / "loggers" / "mlflow.json"
    state.write_text(state.read_text().replace('"step": 30', '"step": 10'))
    hand_over(folder, "mlflow", restored=30)
    (run,) = runs(client, "repeated")
    assert history(client, run) == expected((range(1, 31), 0.0))


def test_a_run_that_the_server_does_not_know_is_handed_over_from_the_start(tmp_path, client):
    folder = tmp_path / "deleted"
    write_records(folder, 1, 20)
    hand_over(folder, "mlflow", restored=0)
    (run,) = runs(client, "deleted")
    client.delete_run(run.info.run_id)
    write_records(folder, 21, 25)
    hand_over(folder, "mlflow", restored=20)
    (run,) = runs(client, "deleted")
    assert history(client, run) == expected((range(1, 26), 0.0))


def test_a_server_that_is_killed_and_comes_back_has_everything_in_the_end(tmp_path, server, client, capfd, caplog):
    folder = tmp_path / "outage"
    folder.mkdir()
    told = Messages()
    writer = MetricsWriter(folder, 0)
    delivery = Delivery("mlflow", LOGGERS["mlflow"](description(folder)), folder, 0, told)
    delivery.start()

    def write(first, last):
        for step in range(first, last + 1):
            writer.write({**record(step), "train/lost": math.nan})
        writer.flush()
        delivery.wake()

    write(1, 50)
    wait_for(lambda: delivery.step == 50, "fifty steps")
    server.kill()
    write(51, 300)
    wait_for(lambda: told.lines, "the outage")
    server.start()
    write(301, 310)
    assert finish_all([delivery], "finished", grace_s=120)
    (run,) = runs(client, "outage")
    assert history(client, run) == expected((range(1, 311), 0.0))
    assert all(math.isnan(value) for _, value, _ in history(client, run, "train/lost"))
    assert len(told.lines) == 2
    assert "sent the records of steps 51 to 310" in told
    # Neither the address nor what is in it is told or written.
    written = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert "127.0.0.1" not in "".join((*told.lines, written, *capfd.readouterr(), caplog.text))


@pytest.mark.slow
def test_training_does_without_the_server_and_what_it_missed_is_handed_over_afterwards(
    dataset, tmp_path, server, client, monkeypatch
):
    run_dir = tmp_path / "missed"
    with socket.socket() as closed:
        # Bound and not listening: whoever connects is refused.
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
        result = molstream(
            "pretrain",
            f"data.path={dataset}",
            f"run_dir={run_dir}",
            "model=tiny",
            "data.lanes=2",
            "data.micro_batch=8",
            "steps=4",
            "log.loggers=[mlflow]",
            "log.project=afterwards",
        )
    assert result.stderr.count("mlflow is not available") == 1
    assert "mlflow has confirmed the records up to step 0 of 4" in result.stderr
    assert f"To send the rest: molstream sync run_dir={run_dir}" in result.stderr
    assert "127.0.0.1" not in result.stdout + result.stderr + (run_dir / "log.txt").read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    result = molstream("sync", f"run_dir={run_dir}")
    assert result.stdout == f"{run_dir}: all records are sent\n"
    (run,) = runs(client, "missed", "afterwards")
    assert run.info.status == "FINISHED"
    for name in ("train/loss", "throughput/molecules_per_s"):
        recorded = [(r["step"], r[name]) for r in read_metrics(run_dir)]
        assert [(step, value) for step, value, _ in history(client, run, name)] == recorded
    chosen = {name.split(".")[1] for name in run.data.params if name.startswith("objective.")}
    assert chosen == {"moleculesde"}
    assert run.data.params["data.lanes"] == "2"
    assert run.data.tags["molstream.launch.0000"] == f"step 0: {read_launches(run_dir)[0].where}"
    assert run.data.tags["molstream.version.torch"]


def test_without_an_address_nothing_starts(small_run, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    result = molstream("sync", f"run_dir={small_run}", "loggers=[mlflow]", check=False)
    assert result.returncode == 2
    assert "MLFLOW_TRACKING_URI is not set" in result.stderr
