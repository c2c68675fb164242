"""Chaos: drivers, workers, sandboxes and whole nodes of a real Ray are killed over one job; its bytes must not change.

A failure names its seed: MOLSTREAM_CHAOS_SEED=... makes the same choices again (the moments are then as near as
processes can repeat them).
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from molstream.pipeline.shards.manifest import read_manifest
from tests.support.datasets import REPOSITORY, molstream
from tests.support.outcome import assert_same_outcome
from tests.support.ray_nodes import RayNodes, processes

KINDS = ("driver", "worker", "sandbox", "node")
BAD = ("junk", "CN(C)(C)(C)C", "", "*CC", "C1CC")
ROWS_PER_SHARD = 6
LAST_MOMENT = 0.8
"""Part of stage two after which no kill begins, so that there is a job left to be killed."""
PATIENCE_S = 120.0

ACIDS = (
    *("c1ccccc1", "c1ccc(F)cc1", "c1ccc(Cl)cc1", "c1ccc(OC)cc1", "c1ccncc1", "c1ccc(C#N)cc1", "c1cc(C)no1", "c1ccsc1"),
    *("C1CCCC1", "C1CC1", "C(C)(C)C", "Cc1ccccc1", "CCc1ccccc1", "c1cnc2ccccc2c1", "c1ccc(C(F)(F)F)cc1", "c1cc[nH]c1"),
    *("c1ccc(S(C)(=O)=O)cc1", "COc1ccccc1", "C1CCOCC1", "c1cnn(C)c1"),
)
AMINES = (
    *("N1CCOCC1", "N1CCCC1", "N1CCN(C)CC1", "NCc1ccccc1", "Nc1ccc(F)cc1", "NC1CC1", "NCCOC", "NCC(C)C", "Nc1nccs1"),
    *("NC1CCCCC1", "Nc1ccccn1", "NCc1ccco1", "N(C)Cc1ccccc1", "N1CCC(O)CC1", "NC[C@@H](C)O", "Nc1cc(C)on1"),
    *("NCC(F)(F)F", "N1CCSCC1", "NCCc1ccccc1", "Nc1ccc2OCOc2c1"),
)


def drug_like(count: int) -> list[str]:
    """``count`` (up to 400) distinct amides, with five bad rows and four duplicates in another spelling among them."""
    amides = [f"O=C({acid}){amine}" for acid in ACIDS for amine in AMINES]
    molecules = random.Random(0).sample(amides, count)
    other = [text.replace("O=C(", "C(=O)(", 1) for text in molecules[:4]]
    rows = [*molecules, *other]
    for k, bad in enumerate(BAD):
        rows.insert((k + 1) * count // 7, bad)
    return rows


class Job:
    """The command, given again whenever its process has ended badly, and what happens to it."""

    def __init__(self, nodes: RayNodes, source: Path, output: Path, nodes_at_risk: tuple[int, ...]):
        self._nodes, self._output, self._at_risk = nodes, output, nodes_at_risk
        settings = (f"rows_per_shard={ROWS_PER_SHARD}", f"ray.address={nodes.address}")
        arguments = ("preprocess", f"input={source}", f"output={output}", *settings)
        self._command = [sys.executable, "-m", "molstream.cli.main", *arguments]
        self._log = output.with_suffix(".log")
        self.start()

    def start(self) -> None:
        """Start a driver."""
        with self._log.open("ab") as log:
            self._driver = subprocess.Popen(
                self._command, cwd=REPOSITORY, env=self._nodes.environment("driver"), stdout=log, stderr=log
            )

    def stop(self) -> None:
        """Kill the driver, if it lives."""
        self._driver.kill()
        self._driver.wait()

    def told(self) -> str:
        """What all drivers printed."""
        return self._log.read_text(errors="replace")

    def wait_for(self, pieces: int) -> None:
        """Until so many pieces of work are done in all: splits described and splits written."""
        work = self._output / "work"
        while len([*work.glob("*.keys.npy"), *work.glob("*.commit.json")]) < pieces:
            self.check()
            time.sleep(0.01)

    def check(self) -> None:
        """The driver must be at work."""
        assert self._driver.poll() is None, f"the driver ended with {self._driver.returncode}:\n{self.told()}"

    def wait(self) -> None:
        """Until the job is done."""
        assert self._driver.wait(PATIENCE_S) == 0, self.told()

    def kill(self, kind: str, choice: random.Random) -> str:
        """SIGKILL one of a kind, as soon as there is one, and bring back what does not come back by itself."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            self.check()
            victims = self._victims(kind)
            if not victims:
                time.sleep(0.01)
                continue
            victim = choice.choice(victims)
            with suppress(ProcessLookupError):
                if kind == "node":
                    self._lose_node(victim)
                else:
                    os.kill(victim, signal.SIGKILL)
                if kind == "driver":
                    self._driver.wait()
                    self.start()
                return f"{kind} {victim}"
        raise AssertionError(f"no {kind} to kill in {PATIENCE_S} s:\n{self.told()}")

    def _victims(self, kind: str) -> list[int]:
        if kind == "driver":
            return [self._driver.pid]
        if kind == "node":
            return [node for node in self._nodes.alive() if node in self._at_risk]
        return self._nodes.workers() if kind == "worker" else self._nodes.sandboxes()

    def _lose_node(self, node: int) -> None:
        self._nodes.kill_node(node)
        if node:
            self._nodes.start_node(node)
            return
        # With the head goes the cluster, and with that the driver.
        assert self._driver.wait(PATIENCE_S) != 0
        self._nodes.bury()
        self._nodes.start()
        self.start()


@contextmanager
def running(nodes: RayNodes, source: Path, output: Path, nodes_at_risk: tuple[int, ...]) -> Iterator[Job]:
    """A job that is over, one way or the other, afterwards."""
    job = Job(nodes, source, output, nodes_at_risk)
    try:
        yield job
    finally:
        job.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "molecules", "nodes_at_risk"),
    [pytest.param(3, 110, (1, 2), id="three"), pytest.param(10, 400, (0, 1, 2), id="ten")],
)
def test_kills_at_random_moments_change_no_byte(tmp_path, kills, molecules, nodes_at_risk):
    seed = int(os.environ.get("MOLSTREAM_CHAOS_SEED") or int.from_bytes(os.urandom(4)))
    print(f"MOLSTREAM_CHAOS_SEED={seed}")
    choice = random.Random(seed)
    source = tmp_path / "molecules.csv"
    source.write_text("smiles\n" + "".join(f'"{text}"\n' for text in drug_like(molecules)))
    undisturbed, output = tmp_path / "undisturbed", tmp_path / "output"
    settings = (f"rows_per_shard={ROWS_PER_SHARD}", "ray.num_cpus=2")
    molstream("preprocess", f"input={source}", f"output={undisturbed}", *settings)
    counts = read_manifest(undisturbed).counts
    assert (counts.written, counts.duplicates, sum(counts.rejected.values())) == (molecules, 4, len(BAD))

    splits = len(read_manifest(undisturbed).splits)
    # Stage one is over soon: one kill in four is enough for it.
    stages = choice.choices(("one", "two"), (1, 3), k=kills)
    last = int(LAST_MOMENT * splits)
    moments = sorted(choice.randrange(splits) if s == "one" else splits + choice.randrange(last) for s in stages)
    kinds = [*choice.sample(KINDS, min(kills, len(KINDS))), *choice.choices(KINDS, k=max(0, kills - len(KINDS)))]
    choice.shuffle(kinds)
    with RayNodes(3) as nodes, running(nodes, source, output, nodes_at_risk) as job:
        for kind, moment in zip(kinds, moments):
            job.wait_for(moment)
            time.sleep(choice.uniform(0, 0.3))
            print(f"after {moment} of {2 * splits} pieces of work: {job.kill(kind, choice)}", flush=True)
        job.wait()
    assert processes(nodes.token) == {}
    assert_same_outcome(output, undisturbed)
