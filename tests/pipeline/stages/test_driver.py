"""A stage over splits on a real Ray: parts on all cores, splits joined when their parts are done."""

import os
import time
from pathlib import Path

import pytest

from molstream.pipeline.config import PreprocessConfig
from molstream.pipeline.readers.base import Layout
from molstream.pipeline.readers.split import InputSplit
from molstream.pipeline.reports.progress import JobProgress
from molstream.pipeline.stages.driver import Stage, run_stage
from molstream.pipeline.stages.task import SplitTask
from tests.support.local_ray import local_ray

PART_S = 0.2


@pytest.fixture(scope="module", autouse=True)
def _ray():
    with local_ray(num_cpus=2):
        yield


def task(index: int, rows: int, folder: Path) -> SplitTask:
    split = InputSplit("a.smi", "a.smi", "smi", 100 * index, rows, b"", Layout())
    config = PreprocessConfig(input="a.smi", output=str(folder))
    options = (config.container, config.block_rows, config.duplicates, config.featurize, config.sandbox)
    return SplitTask(index, split, str(folder), str(folder), *options)


def part(task: SplitTask, rows: range) -> dict[str, int]:
    time.sleep(PART_S)
    task.path(f"part-{rows.start}").write_text(str(os.getpid()))
    return {"odd": sum(row % 2 for row in rows)}


def join(task: SplitTask) -> dict[str, int]:
    """The processes that did the parts, which are removed."""
    files = sorted(Path(task.work).glob(f"{task.index:05d}.part-*"))
    workers = [int(file.read_text()) for file in files]
    for file in files:
        file.unlink()
    return {"parts": len(workers), "workers": len(set(workers))}


def run(tasks: list[SplitTask], todo=lambda task: task.split.parts(4)) -> tuple[dict[int, dict[str, int]], str]:
    found: dict[int, dict[str, int]] = {}
    stage = Stage(part, join, todo, lambda result: {"odd": tasks[0].split.rows // 2})
    with JobProgress("stage", len(tasks), sum(t.split.rows for t in tasks), 60) as progress:
        run_stage(stage, tasks, progress, lambda task, result: found.__setitem__(task.index, result))
        return found, progress.line()


def test_one_split_is_work_for_all_cores(tmp_path):
    found, line = run([task(0, 32, tmp_path)])
    assert found == {0: {"parts": 8, "workers": 2}}
    assert line.startswith("stage  splits 1/1  molecules 32/32 ")
    assert "rejected odd=16" in line
    assert list(tmp_path.iterdir()) == []


def test_every_split_is_joined_once_all_its_parts_are_done(tmp_path):
    found, line = run([task(k, 10, tmp_path) for k in range(4)])
    assert {index: result["parts"] for index, result in found.items()} == dict.fromkeys(range(4), 3)
    assert "splits 4/4  molecules 40/40" in line
    assert "rejected odd=20" in line


def test_a_split_without_parts_left_counts_with_all_its_rows(tmp_path):
    found, line = run([task(k, 10, tmp_path) for k in range(2)], lambda task: [])
    assert {index: result["parts"] for index, result in found.items()} == {0: 0, 1: 0}
    assert "splits 2/2  molecules 20/20" in line
    assert "rejected odd=10" in line
