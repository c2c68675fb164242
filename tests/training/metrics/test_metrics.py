"""metrics.jsonl: what is dropped when a run continues, what a reader sees while it grows; the log line."""

import json

import pytest

from molstream.training.metrics.records import FILE, MetricsReader, MetricsWriter, last_step, log_line, read_metrics
from tests.support.recorded import record, write_records


@pytest.mark.parametrize("kept", [0, 1, 2, 57, 98, 99, 100])
@pytest.mark.parametrize("torn", ["", '{"step": 101, "tr', "{"])
def test_continuing_keeps_the_records_up_to_the_step_alone(tmp_path, kept, torn):
    write_records(tmp_path, 1, 99)
    with (tmp_path / FILE).open("a") as file:
        # Lines of other lengths, two of one step: what comes first and last of it belongs together.
        file.write(json.dumps({**record(100), "valid/loss": 1.0}) + "\n" + json.dumps(record(100)) + "\n" + torn)
    assert last_step(tmp_path) == 100
    MetricsWriter(tmp_path, kept).close()
    expected = [*range(1, min(kept, 99) + 1), *([100, 100] if kept == 100 else [])]
    assert [r["step"] for r in read_metrics(tmp_path)] == expected
    assert last_step(tmp_path) == kept
    assert "tr" not in (tmp_path / FILE).read_text().replace("train", "")


def test_a_reader_follows_a_file_that_grows_and_takes_whole_lines_only(tmp_path):
    write_records(tmp_path, 1, 10)
    reader = MetricsReader(tmp_path, 4)
    assert [r["step"] for r in reader.next(3)] == [5, 6, 7]
    assert [r["step"] for r in reader.next(100)] == [8, 9, 10]
    line = json.dumps(record(11)) + "\n"
    with (tmp_path / FILE).open("a", buffering=1) as file:
        file.write(line[:9])
        file.flush()
        assert reader.next(100) == []
        file.write(line[9:])
    assert reader.next(100) == [record(11)]


def test_a_line_of_many_values_is_found_from_the_end(tmp_path):
    write_records(tmp_path, 1, 3)
    with (tmp_path / FILE).open("a") as file:
        file.write(json.dumps({"step": 4, **{f"train/{k}": 0.5 for k in range(1000)}}) + "\n")
    assert last_step(tmp_path) == 4


def test_the_log_line_has_the_order_of_the_design():
    means = {
        "step": 50,
        "time": 1.7e9,
        "train/loss": 1.5,
        "train/contrastive": 0.25,
        "optim/lr": 3e-4,
        "optim/grad_norm": 0.98765,
        "throughput/molecules_per_s": 41234.5,
        "throughput/data_wait": 0.018,
        "data/padding": 0.031,
    }
    assert log_line(means, 200, 1000.0, 2.5) == (
        "step 50/200  25.0 %  loss 1.5000  contrastive 0.2500  grad 0.988  lr 3.00e-04  41234 mol/s  wait 1.8 %  "
        "pad 3.1 %  mem 2.50 GiB  eta 41:40:00"
    )
