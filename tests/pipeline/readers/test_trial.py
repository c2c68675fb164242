"""A file that ends the process which reads it is named, and ends no command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.datasets import REPOSITORY

FORMAT = '''
"""An input format whose library crashes on a line that says so."""

import os

from molstream.pipeline.readers.base import Format, Layout, Molecule, by_bytes
from molstream.pipeline.readers.text import lines


def crashing(file, layout):
    for line in lines(file, layout):
        if b"crash" in line:
            os.abort()
        yield line


brittle = Format((".brittle",), lambda where, path, config: Layout(), by_bytes(crashing),
                 lambda record, layout: Molecule(record.decode().strip(), "smiles", ()), may_crash=True)
'''
READ = """
import sys
from pathlib import Path
from molstream.errors import DataError
from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers.prepare import open_sources
from molstream.pipeline.readers.split import cut, read_split
try:
    for split in cut(open_sources(sys.argv[1:], Path("."), ReadConfig()), 10):
        print(*(record.text for record in read_split(split)))
except DataError as error:
    print("error:", error)
"""


@pytest.fixture
def read(tmp_path: Path):
    """Read files in a process that knows the format, from a folder of its own."""
    packages = tmp_path / "packages"
    metadata = packages / "brittle-1.0.dist-info"
    metadata.mkdir(parents=True)
    (packages / "brittle.py").write_text(FORMAT)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: brittle\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[molstream.formats]\nbrittle = brittle:brittle\n")
    environment = {**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{REPOSITORY}"}

    def run(**files: str) -> str:
        for name, content in files.items():
            (tmp_path / f"{name}.brittle").write_text(content)
        command = [sys.executable, "-c", READ, *(f"{name}.brittle" for name in files)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_files_that_do_no_harm_are_read(read):
    assert read(a="C\nCC\n", b="O\n") == "C CC\nO\n"


def test_of_several_files_the_one_that_ends_the_process_is_named(read):
    told = read(a="C\n", b="C\ncrash\n", c="C\n")
    assert told.startswith("error: ")
    assert "/b.brittle is damaged, or needs more memory than there is" in told
    assert told.endswith("reading it ends the process (SIGABRT). Fetch the file again.\n")
