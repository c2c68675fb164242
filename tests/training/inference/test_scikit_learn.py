"""The embedder as scikit-learn sees it: the checks of its own that need no matrix of numbers, and a frame's index.

Those of ``check_estimator`` that give numbers to ``fit`` or ``transform`` do not apply.
"""

import io
import sys
from typing import Any

import pandas as pd
import pytest
from rdkit import Chem
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks, get_tags

from molstream.training.inference.embedder import MoleculeEmbedder
from molstream.training.metrics import console
from tests.support.exports import write_export

SMILES = ["CCO", "c1ccccc1O", "CC(=O)O", "CCN", "CCCC", "C1CCNCC1", "CC#N", "CSC", "OCCN", "Cc1ccccc1"]
CHECKS = (
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_get_params_invariance",
    "check_set_params",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_valid_tag_types",
    "check_estimator_tags_renamed",
)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return MoleculeEmbedder(write_export(tmp_path_factory.mktemp("export") / "both"), representation="2d")


def changed(embedder: MoleculeEmbedder, **parameters: Any) -> MoleculeEmbedder:
    """A copy with other parameters."""
    return MoleculeEmbedder(**{**embedder.get_params(), **parameters})


@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learn_s_checks(embedder, name):
    getattr(estimator_checks, name)("MoleculeEmbedder", embedder)


def test_tags_say_that_it_takes_texts_and_is_never_fitted(embedder):
    tags = get_tags(embedder)
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert not tags.requires_fit


def test_a_column_of_a_frame_keeps_its_index(embedder):
    frame = pd.DataFrame({"smiles": SMILES}, index=[f"molecule {k}" for k in range(10, 20)])
    pandas = changed(embedder).set_output(transform="pandas")
    for column in (frame, frame["smiles"]):
        for found in (pandas.transform(column), pandas.fit_transform(column)):
            assert list(found.index) == list(frame.index)
            assert list(found.columns) == [f"molecule_2d_{k}" for k in range(96)]


def test_cross_validation_with_a_cache_computes_a_molecule_once(embedder, tmp_path, monkeypatch):
    seen = []
    plain = MoleculeEmbedder.embed_records

    def counting(self, raws, *arguments):
        seen.extend(raw.text for raw in raws)
        return plain(self, raws, *arguments)

    monkeypatch.setattr(MoleculeEmbedder, "embed_records", counting)
    cached = changed(embedder, cache=tmp_path / "cache")
    model = make_pipeline(cached, KNeighborsRegressor(2))
    cross_val_score(model, SMILES, [float(len(text)) for text in SMILES], cv=5)
    assert sorted(seen) == sorted(SMILES)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("call", ["transform", "transform_atoms"])
def test_long_calls_show_their_progress_on_a_terminal_alone(embedder, monkeypatch, call):
    embed = getattr(changed(embedder, batch_size=3), call)
    for stream, seconds, is_shown in ((Terminal(), 0.0, True), (Terminal(), 60.0, False), (io.StringIO(), 0.0, False)):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(console, "LONG_S", seconds)
        embed([Chem.MolFromSmiles(text) for text in SMILES])
        assert ("molecules" in stream.getvalue()) == is_shown
