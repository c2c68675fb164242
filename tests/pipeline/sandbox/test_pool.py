"""Several children on one list: the results of one process, in order, and an end at any time."""

import itertools
import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest

from molstream.pipeline.config import SandboxConfig
from molstream.pipeline.sandbox.parent import Sandbox
from molstream.pipeline.sandbox.pool import SandboxPool
from molstream.preprocessing.config import ConformerConfig, FeaturizeConfig
from molstream.preprocessing.drawing import PLAIN, image_of, random_view
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection
from tests.support.samples import assert_same

CONFIG = FeaturizeConfig()
SLOW = "C" * 250
"""Embedding takes RDKit tens of seconds."""


def raws(texts: list[str]) -> list[RawMolecule]:
    return [RawMolecule(text, "smiles", "a.smi", 7, (float(k),)) for k, text in enumerate(texts)]


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "molstream.pipeline.sandbox.child" in p.cmdline()]


@pytest.mark.parametrize("processes", [1, 3])
def test_results_are_those_of_one_process_in_order(processes):
    molecules = raws(["CCO", "junk", "c1ccccc1O", "", *("C" * (k % 9 + 1) + "N" for k in range(60))])
    with SandboxPool(SandboxConfig(), CONFIG, processes) as pool:
        found = list(pool.featurize(molecules))
        again = list(pool.featurize(molecules[:3]))
    assert len(found) == len(molecules)
    for result, molecule in zip([*found, *again], [*molecules, *molecules[:3]], strict=True):
        alone = featurize(molecule, CONFIG)
        if isinstance(alone, MoleculeSample):
            assert isinstance(result, MoleculeSample)
            assert_same(result, alone)
        else:
            assert isinstance(result, Rejection)
            assert (result.row, result.text, result.reason) == (7, alone.text, alone.reason)
    assert not children()


def test_keys_are_left_out_where_nothing_needs_them():
    flat = replace(CONFIG, conformers=ConformerConfig(num_conformers=0))
    with SandboxPool(SandboxConfig(), flat, 1, keys=False) as pool:
        [found] = pool.featurize(raws(["CCO"]))
    whole = featurize(raws(["CCO"])[0], flat)
    assert isinstance(found, MoleculeSample)
    assert isinstance(whole, MoleculeSample)
    assert found.key == ""
    assert_same(replace(found, key=whole.key), whole)


def test_a_molecule_that_hangs_costs_its_deadline_and_nothing_else():
    molecules = raws(["CCO", SLOW, "CCN", *["CCC"] * 40])
    started = time.monotonic()
    with SandboxPool(SandboxConfig(deadline_s=0.5), CONFIG, 2) as pool:
        found = list(pool.featurize(molecules))
    assert time.monotonic() - started < 60
    assert [result.reason for result in found if isinstance(result, Rejection)] == ["deadline"]
    assert isinstance(found[1], Rejection)


def test_images_are_those_of_one_process_in_order():
    smiles = ["CCO", "junk", "c1ccccc1O", "", *("C" * (k % 9 + 1) + "N" for k in range(40))]
    drawings = [(text, random_view(text, 3, k)) for k, text in enumerate(smiles)]
    with SandboxPool(SandboxConfig(), CONFIG, 2) as pool:
        found = list(pool.images(drawings, 112))
    for image, (text, view) in zip(found, drawings, strict=True):
        alone = image_of(text, 112, view)
        assert (image is None) == (alone is None)
        assert np.array_equal(image, alone) if image is not None else text in ("junk", "")


def test_a_molecule_that_kills_its_child_has_no_image(monkeypatch):
    with Sandbox(SandboxConfig(), CONFIG) as sandbox:
        attempt = sandbox._attempt

        def killing(frame):
            sandbox.start()
            if any(smiles == "CCN" for smiles, *_ in frame.request.records):
                os.kill(sandbox.child_pid or 0, signal.SIGKILL)
            return attempt(frame)

        monkeypatch.setattr(sandbox, "_attempt", killing)
        found = sandbox.images([(text, PLAIN) for text in ("CCN", "CCO")], 112)
    assert found[0] is None
    assert np.array_equal(found[1], image_of("CCO", 112))


def test_molecules_are_taken_as_results_are_wanted():
    taken = itertools.count()
    endless = (RawMolecule("C", "smiles", "", next(taken)) for _ in itertools.count())
    with SandboxPool(SandboxConfig(), CONFIG, 2) as pool:
        results = pool.featurize(endless)
        assert [next(results).row for _ in range(3)] == [0, 1, 2]
    assert next(taken) < 500


def test_an_interrupt_ends_the_children_at_once():
    threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), SandboxPool(SandboxConfig(), CONFIG, 2) as pool:
        list(pool.featurize(raws([SLOW] * 4)))
    assert time.monotonic() - started < 10
    assert not children()
