"""Loggers get every record once, whatever dies: TensorBoard's own reader is asked what it shows."""

import threading
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from molstream.errors import ConfigError
from molstream.training.metrics.config import LogConfig
from molstream.training.metrics.loggers import LOGGERS, Delivery, check_loggers, finish_all
from molstream.training.metrics.loggers.base import LoggerError
from molstream.training.metrics.records import MetricsWriter
from tests.support.recorded import Messages, description, record, write_records


def hand_over(folder, name, restored, ended="finished", **tags):
    """A launch's delivery from beginning to end."""
    told = Messages()
    delivery = Delivery(name, LOGGERS[name](description(folder, **tags)), folder, restored, told)
    delivery.start()
    assert finish_all([delivery], ended, grace_s=120), told.lines
    return told


def shown(folder):
    """What TensorBoard shows of the loss, by step, as (value, wall time)."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {e.step: (e.value, e.wall_time) for e in events.Scalars("train/loss")}, events


def test_tensorboard_shows_what_a_crash_left_behind_only_as_it_was_done_again(tmp_path):
    write_records(tmp_path, 1, 9)
    hand_over(tmp_path, "tensorboard", restored=0)
    write_records(tmp_path, 7, 12, offset=0.5)
    hand_over(tmp_path, "tensorboard", restored=6)
    values, events = shown(tmp_path)
    assert sorted(values) == list(range(1, 13))
    for step, (value, wall_time) in values.items():
        expected = record(step, 0.5 if step > 6 else 0.0)
        assert value == pytest.approx(expected["train/loss"])
        assert wall_time == expected["time"]
    assert len(events.Scalars("train/loss")) == 12
    assert b"optim.lr: 0.0003" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def test_a_sink_that_is_named_later_gets_the_whole_run(tmp_path):
    write_records(tmp_path, 1, 250)
    hand_over(tmp_path, "tensorboard", restored=200)
    assert sorted(shown(tmp_path)[0]) == list(range(1, 251))


class Flaky:
    """A logger that the test lets fail, hang and come back."""

    rewinds = False
    later = "hand over {run}"

    def __init__(self):
        self.records, self.opened, self.ended = [], [], None
        self.up, self.hanging = threading.Event(), threading.Event()

    def open(self, run_id, step):
        self._require_up()
        self.opened.append(run_id)
        return step

    def write(self, records):
        self.hanging.wait()
        self._require_up()
        self.records += records

    def close(self, ended):
        self._require_up()
        self.ended = ended

    def _require_up(self):
        if not self.up.is_set():
            raise LoggerError("down")


@pytest.fixture
def flaky():
    logger = Flaky()
    logger.hanging.set()
    logger.up.set()
    return logger


def wait_for(condition, what):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_an_outage_is_told_once_and_made_up_for_in_order(tmp_path, flaky):
    told = Messages()
    writer = MetricsWriter(tmp_path, 0)
    delivery = Delivery("flaky", flaky, tmp_path, 0, told)
    delivery.start()

    def write(first, last):
        for step in range(first, last + 1):
            writer.write(record(step))
        writer.flush()
        delivery.wake()

    write(1, 10)
    wait_for(lambda: len(flaky.records) == 10, "ten records")
    flaky.up.clear()
    write(11, 20)
    wait_for(lambda: told.lines, "the outage")
    write(21, 30)
    time.sleep(1.5)
    flaky.up.set()
    wait_for(lambda: len(flaky.records) == 30, "the rest")
    assert finish_all([delivery], "finished")
    assert flaky.records == [record(step) for step in range(1, 31)]
    assert flaky.ended == "finished"
    assert len(set(flaky.opened)) == 1
    assert len(told.lines) == 2
    assert "flaky is not available (down): records stay in metrics.jsonl" in told.lines[0]
    assert "flaky is available again: sent the records of steps 11 to 30" in told.lines[1]


def test_a_sink_that_hangs_holds_nobody_up_and_what_it_lacks_is_told(tmp_path, flaky):
    told = Messages()
    flaky.hanging.clear()
    write_records(tmp_path, 1, 5)
    delivery = Delivery("flaky", flaky, tmp_path, 0, told)
    delivery.start()
    delivery.wake()
    assert not finish_all([delivery], "finished", grace_s=0.2)
    assert (
        f"the records up to step 0 of 5; metrics.jsonl has all of them. To send the rest: hand over {tmp_path}" in told
    )
    flaky.hanging.set()


def test_a_process_that_dies_between_goes_on_where_the_sink_was(tmp_path, flaky):
    write_records(tmp_path, 1, 5)
    for restored, last in ((0, 5), (3, 8)):
        write_records(tmp_path, restored + 1, last, offset=float(restored))
        delivery = Delivery("flaky", flaky, tmp_path, restored, Messages())
        delivery.start()
        assert finish_all([delivery], "failed")
    # Steps 4 and 5 were done twice: a logger that cannot drop them keeps the first.
    assert flaky.records == [record(step) for step in range(1, 6)] + [record(step, 3.0) for step in range(6, 9)]
    assert len(set(flaky.opened)) == 1


def test_what_is_missing_is_named_before_anything_starts(monkeypatch):
    with pytest.raises(ConfigError, match=r"'mflow'\. Choose any of: tensorboard, mlflow, wandb"):
        check_loggers(["tensorboard", "mflow"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, extra in (("tensorboard", "train"), ("mlflow", "mlflow"), ("wandb", "wandb")):
        with pytest.raises(ConfigError, match=rf"{name}, which is not installed: pip install 'molstream\[{extra}\]'"):
            check_loggers([name])
    assert LogConfig().loggers == ["tensorboard"]


@pytest.mark.parametrize("address", ["file:mlruns", "file:///runs", "./mlruns", "mlruns", "/runs/mlruns", "~/mlruns"])
def test_folders_of_mlflow_are_refused_at_the_start(monkeypatch, address):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(ConfigError, match=r"is a folder, which MLflow does not write to.*mlflow server.*sqlite:"):
        check_loggers(["mlflow"])


@pytest.mark.parametrize("address", ["http://127.0.0.1:5000", "https://x.org", "sqlite:///a.db", "databricks"])
def test_servers_and_databases_of_mlflow_are_not(monkeypatch, address):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    check_loggers(["mlflow"])
