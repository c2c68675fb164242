"""What a job tells of itself: rates, what is left, and a panel that fits every terminal."""

import io
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.console import Console

from molstream.pipeline.reports.progress import JobProgress
from tests.conftest import REPOSITORY


class Clock:
    """Time that goes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def panel(progress: JobProgress, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(progress)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_line_has_a_fixed_order(clock, capsys):
    with JobProgress("describe", 4, 100, 30.0, clock) as progress:
        clock.now += 10
        progress.advance(25, {"unparsable": 2, "dummy_atom": 1}, splits=1)
        assert progress.line() == (
            "describe  splits 1/4  molecules 25/100  2.5 mol/s  rejected dummy_atom=1 unparsable=2  eta 00:00:30"
        )
    assert capsys.readouterr().err.endswith("eta 00:00:30\n")


def test_molecules_move_before_their_split_is_done(clock):
    with JobProgress("conformers", 2, 200, 30.0, clock) as progress:
        clock.now += 1
        progress.advance(32, {"timeout": 1})
        assert "splits 0/2  molecules 32/200  32.0 mol/s  rejected timeout=1" in progress.line()
        progress.advance(0, {}, splits=1)
        assert "splits 1/2  molecules 32/200" in progress.line()


def test_a_line_is_printed_once_per_interval(clock, capsys):
    with JobProgress("describe", 4, 100, 30.0, clock) as progress:
        for _ in range(100):
            clock.now += 1
            progress.tick()
        assert len(capsys.readouterr().err.splitlines()) == 3


def test_what_was_done_before_does_not_count_as_speed(clock):
    with JobProgress("conformers", 10, 1000, 30.0, clock) as progress:
        for _ in range(8):
            progress.skip(100)
        clock.now += 20
        progress.advance(100, {}, splits=1)
        assert progress.mean_speed() == pytest.approx(5)
        assert progress.recent_speed() == pytest.approx(5)
        assert "splits 9/10  molecules 900/1000  5.0 mol/s" in progress.line()
        assert progress.line().endswith("eta 00:00:20")


def test_the_recent_speed_forgets_what_the_mean_does_not(clock):
    with JobProgress("conformers", 100, 10_000, 30.0, clock) as progress:
        for _ in range(10):
            clock.now += 10
            progress.advance(100, {}, splits=1)
        for _ in range(10):
            clock.now += 10
            progress.advance(20, {}, splits=1)
        assert progress.mean_speed() == pytest.approx(6)
        assert progress.recent_speed() == pytest.approx(2)


def test_splits_of_more_than_a_minute_have_a_recent_speed(clock):
    with JobProgress("conformers", 10, 10_000, 30.0, clock) as progress:
        for _ in range(3):
            clock.now += 300
            progress.advance(600, {}, splits=1)
        assert progress.recent_speed() == pytest.approx(2)
        clock.now += 100
        assert progress.recent_speed() == pytest.approx(1.5)


def test_days_are_told_in_hours(clock):
    with JobProgress("conformers", 1000, 1_000_000, 30.0, clock) as progress:
        clock.now += 100
        progress.advance(100, {}, splits=1)
        assert progress.line().endswith("eta 277:45:00")


def test_tasks_in_flight_show_that_something_is_going_on(clock):
    with JobProgress("conformers", 10, 1000, 30.0, clock) as progress:
        for _ in range(3):
            progress.skip(100)
        calls = progress.begun(iter(range(7)))
        for _ in range(4):
            next(calls)
        assert "tasks in flight 4 " in "\n".join(panel(progress, 80))
        clock.now += 1
        progress.advance(100, {}, splits=1)
        assert "tasks in flight 3 " in "\n".join(panel(progress, 80))
        assert list(calls) == [4, 5, 6]


@pytest.mark.parametrize(("width", "expected"), [(200, 80), (80, 80), (40, 40), (24, 24)])
@pytest.mark.parametrize("rejected", [{}, {f"a_rather_long_reason_{k}": 10**k for k in range(9)}])
def test_the_panel_never_wraps(clock, width, expected, rejected):
    with JobProgress("conformers", 500_000, 10**9, 30.0, clock) as progress:
        list(progress.begun(range(100)))
        clock.now += 1000
        progress.advance(123_456_789, rejected, splits=1)
        lines = panel(progress, width)
    assert len(lines) == 6
    assert {len(line) for line in lines} == {expected}
    text = "\n".join(lines)
    if width >= 80:
        assert "12.3 %" in text
        assert "shards 1/500,000" in text
        assert "molecules/s 123,456.8 in the last minute, 123,456.8 in the mean" in text
        assert ("a_rather_long_reason_8 100,000,000" in text) == bool(rejected)


def test_on_a_terminal_the_panel_goes_and_the_last_line_stays():
    code = (
        "import time\nfrom molstream.pipeline.reports.progress import JobProgress\n"
        "with JobProgress('conformers', 2, 200, 30.0) as p:\n"
        "    for _ in p.begun(range(2)):\n        p.advance(100, {'unparsable': 1}, 1); time.sleep(0.4)\n"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=theirs, stderr=theirs) as job:
        os.close(theirs)
        shown = b""
        # At the end of a terminal, reading fails.
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert job.returncode == 0
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "\n").split("\n")
    assert any("tasks in flight" in line for line in lines)
    last = next(line for line in reversed(lines) if line.strip())
    assert re.fullmatch(r"conformers  splits 2/2  molecules 200/200  [\d.]+ mol/s  rejected unparsable=2  eta -", last)
    assert max(len(line) for line in lines if line != last) <= 80
