"""Images of molecules: one for every spelling, process and preference; views that show the same molecule."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from rdkit.Chem import rdDepictor
from scipy import stats
from scipy.ndimage import gaussian_filter

from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.drawing import PLAIN, View, image_of, random_view, stacked
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule
from tests.support.datasets import DRUGS, REPOSITORY
from tests.support.spellings import other_spellings

HYDROCARBON, ENANTIOMER = "CC[C@H](C)[C@@H](C)[C@H](C)CC", "CC[C@@H](C)[C@H](C)[C@@H](C)CC"
"""A chiral molecule and its enantiomer, drawn without letters, which a flip of the pixels would mirror."""
MOLECULE = "CC1=NN(C(=O)C1)c1cccc(Cl)c1"


def drawn(smiles: str, size: int = 112, view: View = PLAIN) -> np.ndarray:
    image = image_of(smiles, size, view)
    assert image is not None
    return image


def unlike(one: np.ndarray, other: np.ndarray) -> float:
    """Share of the ink in which two images differ once they are blurred: places of lines are rounded to pixels."""
    first, second = (gaussian_filter(255.0 - image, (0, 2.5, 2.5)) for image in (one, other))
    return float(np.abs(first - second).sum() / (first.sum() + second.sum()))


def smiles_of(text: str) -> str:
    sample = featurize(RawMolecule(text, "smiles", "", 0), FeaturizeConfig())
    assert isinstance(sample, MoleculeSample)
    return sample.smiles


@pytest.mark.parametrize("size", [112, 224])
def test_an_image_is_dark_on_white(size):
    image = drawn(MOLECULE, size)
    assert (image.shape, image.dtype) == ((3, size, size), np.uint8)
    assert image.flags.c_contiguous
    border = np.concatenate([image[:, [0, -1]].ravel(), image[:, :, [0, -1]].ravel()])
    assert (border == 255).all()
    assert 0.01 < (image < 128).any(0).mean() < 0.2


def test_every_spelling_has_one_image():
    for text in DRUGS[:4]:
        images = {drawn(smiles_of(spelling)).tobytes() for _, spelling in other_spellings(text, 3)}
        assert images == {drawn(smiles_of(text)).tobytes()}


def test_another_process_draws_the_same():
    view = random_view("KEY", 3, 14)
    code = (
        "import hashlib, sys; from molstream.preprocessing.drawing import image_of, random_view; "
        "print(hashlib.sha256(image_of(sys.argv[1], 224, random_view('KEY', 3, 14)).tobytes()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "7", "LC_ALL": "C"}
    ended = subprocess.run(
        [sys.executable, "-c", code, MOLECULE], env=environment, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == hashlib.sha256(drawn(MOLECULE, 224, view).tobytes()).hexdigest()


def test_a_preference_for_another_layout_changes_nothing():
    before = drawn(MOLECULE)
    rdDepictor.SetPreferCoordGen(True)
    try:
        assert (drawn(MOLECULE) == before).all()
    finally:
        rdDepictor.SetPreferCoordGen(False)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_layout_is_a_turned_picture(quarters):
    picture = np.rot90(drawn(HYDROCARBON, 224), quarters, (1, 2))
    assert unlike(drawn(HYDROCARBON, 224, View(90.0 * quarters)), picture) < 0.1
    assert unlike(drawn(HYDROCARBON, 224, View(90.0 * (quarters - 1))), picture) > 0.4


def test_a_mirrored_layout_shows_the_same_enantiomer():
    """Pixels that are flipped show the other one: its wedges lead backwards where they should come forwards."""
    mirrored, flipped = drawn(HYDROCARBON, 224, View(mirrored=True)), drawn(HYDROCARBON, 224)[:, :, ::-1]
    of_the_other = drawn(ENANTIOMER, 224)[:, :, ::-1]
    assert unlike(mirrored, of_the_other) < 0.1 < 0.2 < unlike(mirrored, flipped)


def test_gray_is_the_brightness_of_the_colours():
    gray, image = drawn(MOLECULE, view=View(gray=True)), drawn(MOLECULE)
    assert (gray[0] == gray[1]).all()
    assert (gray[0] == gray[2]).all()
    luma = np.tensordot([0.299, 0.587, 0.114], image, 1)
    assert np.abs(gray[0] - luma).max() <= 1.0
    assert (image[0] != image[2]).any()


def test_views_are_uniform_and_independent():
    views = [random_view(f"KEY{k}", 5, 11) for k in range(4000)]
    turns, mirrored, gray = (np.array([getattr(view, name) for view in views]) for name in vars(PLAIN))
    assert stats.kstest(turns / 360.0, "uniform").pvalue > 0.01
    for values, share in ((mirrored, 0.5), (gray, 0.2)):
        assert stats.binomtest(int(values.sum()), len(views), share).pvalue > 0.01
    assert np.abs(np.corrcoef([turns, mirrored, gray]) - np.eye(3)).max() < 4 / np.sqrt(len(views))


def test_a_view_is_a_function_of_key_seed_and_step():
    assert random_view("A", 1, 2) == random_view("A", 1, 2)
    views = {random_view(*key) for key in (("A", 1, 2), ("B", 1, 2), ("A", 2, 2), ("A", 1, 3), ("A", 2, 1))}
    assert len(views) == 5


@pytest.mark.parametrize("text", ["", "not a molecule", "c1ccc1C(", "C[N](C)(C)(C)C"])
def test_what_cannot_be_drawn_has_no_image(text):
    assert image_of(text, 112) is None


def test_molecules_that_cannot_be_drawn_are_zero():
    drawings = [image_of(text, 112) for text in ("CCO", "nothing", MOLECULE)]
    images, is_drawn = stacked(drawings, 112)
    assert (images.shape, images.dtype, is_drawn.tolist()) == ((3, 3, 112, 112), np.uint8, [True, False, True])
    assert not images[1].any()
    assert (images[2] == drawn(MOLECULE)).all()


@pytest.mark.parametrize("text", ["C", "CC", "[Na+]", "[H][H]", "N#N", "[Cl-].[Na+]", "C" * 100])
def test_small_and_long_molecules_are_drawn(text):
    assert drawn(text, 112).min() < 128
