"""What is shown of a blended batch: frequencies, molecules without positions, directions of pairs."""

import pytest
import torch

from molstream.training.models.blending import DISTANCE, PATH_BONDS, PATH_LENGTH, draw_blend
from molstream.training.models.graph import molecule_pairs
from tests.support.molecules import seeded

SIZES = [30] * 40
BATCH = torch.repeat_interleave(torch.tensor(SIZES))
PAIRS = molecule_pairs(BATCH)
NUM_PAIRS = PAIRS.shape[1]
PUBLISHED = (0.2, 0.2, 0.6)


def blend(has_pos=None, probabilities=PUBLISHED, ordered=True, surroundings=0.6):
    has_pos = torch.ones(len(SIZES), dtype=torch.bool) if has_pos is None else has_pos
    return draw_blend(PAIRS, BATCH, has_pos, probabilities, surroundings, ordered, seeded(1))


def within_four_sigma(values, expected):
    return abs(values.double().mean().item() - expected) <= 4 * (expected * (1 - expected) / len(values)) ** 0.5


@pytest.mark.parametrize("ordered", [True, False])
def test_relations_have_their_probabilities(ordered):
    drawn = blend(ordered=ordered)
    for part in drawn.relation.split([NUM_PAIRS, NUM_PAIRS, len(BATCH)]):
        for relation, probability in enumerate(PUBLISHED):
            assert within_four_sigma(part == relation, probability), relation
    assert within_four_sigma(drawn.surroundings, 0.6)


def test_directions_are_independent_or_equal():
    """Of independent directions 1 - (0.04 + 0.04 + 0.36) = 56 % show two relations."""
    forward, backward = blend().relation[: 2 * NUM_PAIRS].view(2, -1)
    assert within_four_sigma(forward != backward, 0.56)
    forward, backward = blend(ordered=False).relation[: 2 * NUM_PAIRS].view(2, -1)
    assert torch.equal(forward, backward)


@pytest.mark.parametrize(
    ("probabilities", "expected"), [(PUBLISHED, 0.5), ((0.1, 0.3, 0.6), 0.25), ((0.0, 0.0, 1.0), 0.5)]
)
def test_nothing_in_space_is_shown_without_positions(probabilities, expected):
    has_pos = torch.arange(len(SIZES)) % 2 == 0
    drawn = blend(has_pos, probabilities)
    known = has_pos[BATCH[torch.cat([PAIRS, PAIRS.flip(0), torch.arange(len(BATCH)).expand(2, -1)], dim=1)[0]]]
    assert not (drawn.relation[~known] == DISTANCE).any()
    assert within_four_sigma(drawn.relation[~known] == PATH_LENGTH, expected)
    assert within_four_sigma(drawn.relation[known] == DISTANCE, probabilities[DISTANCE])
    assert not drawn.surroundings[~has_pos[BATCH]].any()


def test_a_relation_of_probability_zero_is_never_shown():
    for relation, probabilities in ((PATH_LENGTH, (0.0, 0.5, 0.5)), (PATH_BONDS, (0.5, 0.0, 0.5))):
        assert not (blend(probabilities=probabilities).relation == relation).any()
