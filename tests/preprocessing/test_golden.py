"""The stored records stay what they are, unless somebody regenerates them and reviews the difference."""

import json

import pytest
import rdkit

from tests.support import golden_records as golden
from tests.support.diverse import DIVERSE


@pytest.fixture(scope="module")
def records() -> dict:
    return golden.records()


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads(golden.PATH.read_text())


@pytest.mark.parametrize("name", DIVERSE)
def test_graph(name, records, expected):
    assert records["molecules"][name]["graph"] == expected["molecules"][name]["graph"]


@pytest.mark.parametrize("name", DIVERSE)
def test_geometry(name, records, expected):
    if rdkit.__version__ != expected["rdkit"]:
        pytest.skip(f"conformers were recorded with RDKit {expected['rdkit']}, this is {rdkit.__version__}")
    now, then = records["molecules"][name]["geometry"], expected["molecules"][name]["geometry"]
    assert now["status"] == then["status"]
    assert now["energy"] == pytest.approx(then["energy"], abs=0.02)
    assert now["radius_of_gyration"] == pytest.approx(then["radius_of_gyration"], abs=2e-3)
