"""Sums over rows and their gradients against adding one by one, and blocks that no pair leaves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from molstream.training.models import graph
from molstream.training.models.graph import Incidence, blocks_of_atoms
from tests.support.molecules import seeded

INDEX = torch.tensor([4, 0, 4, 2, 2, 4])
NUM_ROWS = 6


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(), dtype=torch.float64, requires_grad=True)


def test_rows_are_gathered_and_summed():
    incidence, values = Incidence(INDEX, NUM_ROWS), random(6, 3)
    expected = torch.zeros(NUM_ROWS, 3, dtype=torch.float64).index_add(0, INDEX, values)
    torch.testing.assert_close(incidence.sum(values), expected)
    assert torch.equal(incidence.gather(values), values[INDEX])
    assert incidence.degree.tolist() == [1, 0, 2, 0, 3, 0]
    source = Incidence(torch.tensor([1, 1, 0, 3, 2, 0]), 4)
    rows = random(4, 3)
    torch.testing.assert_close(incidence.sum_from(rows, source), incidence.sum(source.gather(rows)))


def test_first_and_second_derivatives():
    target, source = Incidence(INDEX, NUM_ROWS), Incidence(torch.tensor([1, 1, 0, 3, 2, 0]), 4)
    for function, rows in (
        (target.sum, random(6, 2)),
        (target.gather, random(NUM_ROWS, 2)),
        (lambda rows: target.sum_from(rows, source), random(4, 2)),
    ):
        squared = lambda rows, function=function: function(rows).square()  # noqa: E731
        assert gradcheck(squared, rows)
        assert gradgradcheck(squared, rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_edges_sums_are_zero_and_gradients_too(dtype):
    incidence = Incidence(torch.zeros(0, dtype=torch.long), 3)
    rows = torch.ones(3, 2, dtype=dtype, requires_grad=True)
    gathered = incidence.gather(rows)
    assert gathered.shape == (0, 2)
    sums = incidence.sum(gathered)
    assert torch.equal(sums, torch.zeros(3, 2, dtype=dtype))
    (sums.sum() + incidence.sum_from(rows, incidence).sum()).backward()
    assert torch.equal(rows.grad, torch.zeros(3, 2, dtype=dtype))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_blocks_are_whole_and_no_larger_than_they_must(data):
    num_nodes = data.draw(st.integers(1, 30))
    atom = st.integers(0, num_nodes - 1)
    reach = data.draw(st.integers(1, 6))
    drawn = data.draw(st.lists(st.tuples(atom, atom), max_size=20))
    joined = sorted({(i, j) for i, j in drawn if i < j <= i + reach})
    pairs = torch.tensor(joined, dtype=torch.long).view(-1, 2).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "ATOMS_OF_BLOCK", 5)
        sizes, counts = blocks_of_atoms(pairs, num_nodes)
    assert sum(sizes) == num_nodes
    ends = torch.tensor(sizes).cumsum(0)
    assert [sum(i < end for i, _ in joined) for end in ends.tolist()] == torch.tensor(counts).cumsum(0).tolist()
    block = torch.searchsorted(ends, pairs.contiguous(), right=True)
    assert torch.equal(block[0], block[1])
    may_end = [end for end in range(1, num_nodes + 1) if not any(i < end <= j for i, j in joined)]
    for start, end in zip([0, *ends.tolist()], ends.tolist()):
        assert end - start <= 2 * 5 or not any(start < other < end - 5 for other in may_end)
