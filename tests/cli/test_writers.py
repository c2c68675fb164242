"""Commands that write, on a full disk, in a read-only folder, and twice at once: one message, and nothing is mixed."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from molstream.cli.main import main
from tests.io.test_locks import another_process
from tests.support.command_lines import FAILED, TINY, Places, copy_of, refused
from tests.support.datasets import REPOSITORY, molecules, molstream, write_csv
from tests.support.disk import Disk


class Writer(NamedTuple):
    """A command line, ``{}`` being the folder of its output."""

    line: str
    output: str
    """The file or folder that it writes there."""


WRITERS = {
    "embed": Writer("embed export=EXPORT input=CSV representation=2d output={}/v.parquet", "v.parquet"),
    "embed to CSV": Writer("embed export=EXPORT input=CSV representation=2d output={}/v.csv", "v.csv"),
    "embed to npy": Writer("embed export=EXPORT input=CSV representation=2d output={}/v.npy", "v.npy"),
    "export": Writer("export run_dir=RUN output={}/export", "export"),
    "generate": Writer(
        "generate conformers run_dir=RUN input=CSV output={}/g.sdf limit=1 sampler.num_steps=2", "g.sdf"
    ),
    "report": Writer("report RUN output={}/report.html", "report.html"),
    "evaluate vectors": Writer(
        "evaluate vectors export=EXPORT input=HERE/many.csv target=value folds=random untrained_seeds=1 num_cpus=1 "
        "output={}/eval.json",
        "eval.json",
    ),
    "evaluate conformers": Writer(
        "evaluate conformers run_dir=RUN dataset=DATASET molecules=1 posebusters_molecules=0 sampler.num_steps=2 "
        "output={}/c.json",
        "c.json",
    ),
    "evaluate bonds": Writer(
        "evaluate bonds run_dir=RUN dataset=DATASET molecules=1 sampler.num_steps=2 output={}/b.json", "b.json"
    ),
    "diagnose": Writer("diagnose run_dir={}/copy batches=1", "copy/diagnostics.json"),
}
every_writer = pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)


@pytest.fixture
def target(places: Places, disk: Disk) -> Disk:
    """A disk to write to, with a copy of the run, beside molecules to evaluate on."""
    write_csv(places.HERE / "many.csv", molecules())
    copy_of(places._replace(HERE=disk.folder), "RUN")
    return disk


def content(folder: Path) -> dict[str, bytes]:
    """All files with something in them."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.stat().st_size}


@every_writer
@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_disk_that_cannot_be_written_to_is_named_and_nothing_is_left(places, capfd, target, writer, state):
    if state == "full":
        target.fill()
        parts = ("no space left on device", "Make room there and run the same command again")
    else:
        target.protect()
        parts = ("read-only file system", "Choose a place that can be written to")
    before = content(target.folder)
    refused(places, capfd, writer.line.format(target.folder), FAILED, f"{target.folder}/", *parts)
    assert content(target.folder) == before


@every_writer
def test_a_second_process_with_the_same_output_is_refused(places, capfd, target, writer):
    output = target.folder / writer.output
    with another_process("claimed", output):
        before = sorted(target.folder.rglob("*"))
        parts = (f"{output} is being written by another process", "Wait for it")
        refused(places, capfd, writer.line.format(target.folder), FAILED, *parts)
        assert sorted(target.folder.rglob("*")) == before


LOCKED = {
    "pretrain": f"pretrain data.path=DATASET run_dir={{}} {TINY}",
    "sync": "sync run_dir={} loggers=[tensorboard] timeout_s=5",
    "append": "append input=HERE/more.csv output={}",
    "preprocess": "preprocess input=CSV output={}",
}
"""Commands that work in a folder, ``{}``, which is locked as long as they do."""


def told(places: Places, capfd: pytest.CaptureFixture[str], line: str) -> str:
    """The last line that a command prints, which fails."""
    words = places.words(line)
    if words[0] == "pretrain":
        # In a process of its own, since it makes a process group.
        done = molstream(*words, check=False)
        assert done.returncode == FAILED
        return done.stderr.splitlines()[-1]
    assert main(words) == FAILED
    return capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", LOCKED)
def test_a_second_process_in_the_same_folder_is_refused(places, capfd, command):
    folder = copy_of(places, "DATASET" if command in ("append", "preprocess") else "RUN")
    with another_process("exclusive", folder):
        before = content(folder)
        message = told(places, capfd, LOCKED[command].format(folder))
        assert message == f"error: {folder} is locked by another process. Wait for it or stop it, then try again."
        assert content(folder) == before


@pytest.mark.parametrize("command", ["pretrain", "append", "preprocess"])
def test_a_folder_that_cannot_be_written_to_is_named(places, capfd, disk, command):
    write_csv(places.HERE / "more.csv", ["CCCCCCCCCCCC"])
    folder = disk.folder / "new"
    if command == "append":
        folder = copy_of(places._replace(HERE=disk.folder), "DATASET")
    disk.protect()
    message = told(places, capfd, LOCKED[command].format(folder))
    assert message.startswith(f"error: {folder}")
    assert "read-only file system. Choose a place" in message


def test_generate_says_that_the_disk_is_full_when_it_fills_up_on_the_way(places, capfd, disk):
    old = b"the molecules of an earlier command"
    (disk.folder / "g.sdf").write_bytes(old)
    (disk.folder / "filler").write_bytes(bytes(1 << 14))
    disk.leave(1 << 13)
    line = f"generate conformers run_dir=RUN input=CSV output={disk.folder}/g.sdf repeats=30 sampler.num_steps=2"
    refused(places, capfd, line, FAILED, f"{disk.folder}/g.sdf: no space left on device")
    assert sorted(path.name for path in disk.folder.iterdir()) == ["filler", "g.sdf"]
    assert (disk.folder / "g.sdf").read_bytes() == old


@pytest.mark.slow
@pytest.mark.parametrize("command", ["embed", "export", "generate", "report"])
def test_two_at_once_give_one_whole_output_and_one_refusal_at_most(places, tmp_path, command):
    words = places.words(WRITERS[command].line.format(tmp_path))
    output = tmp_path / WRITERS[command].output
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    assert main(words) == 0
    alone = sorted(content(output.parent))
    both = [subprocess.Popen([sys.executable, "-m", "molstream", *words], cwd=REPOSITORY, **pipes) for _ in range(2)]
    told = [job.communicate(timeout=600)[1] for job in both]
    codes = [job.returncode for job in both]
    assert 0 in codes
    for code, text in zip(codes, told, strict=True):
        assert code == 0 or (code == 1 and "is being written by another process" in text), text
    assert sorted(content(output.parent)) == alone
    assert not list(tmp_path.glob(".writing-*"))


def test_a_device_is_not_replaced_by_a_file(places, capfd, tmp_path):
    device = tmp_path / "null"
    subprocess.run(["mknod", str(device), "c", "1", "3"], check=False, capture_output=True)
    if not device.is_char_device():
        pytest.skip("only root, and not in every container, may make a device")
    refused(places, capfd, f"report RUN output={device}", FAILED, f"{device} is a device or pipe")
    assert device.is_char_device()


def test_the_gallery_and_the_scores_are_two_files(places, capfd):
    line = "evaluate conformers run_dir=RUN dataset=DATASET output=HERE/c.sdf"
    refused(places, capfd, line, 2, "output=HERE/c.sdf: expected another suffix")


def test_what_is_no_run_gets_no_folder(places, capfd):
    for command in ("diagnose", "evaluate bonds dataset=DATASET", "evaluate conformers dataset=DATASET"):
        refused(places, capfd, f"{command} run_dir=HERE/none/run", 2, "HERE/none/run is not a run directory")
    assert not (places.HERE / "none").exists()
