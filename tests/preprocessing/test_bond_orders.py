"""The dynamic programme finds what trying everything finds."""

import itertools
import random

import pytest

from molstream.preprocessing import bond_orders
from molstream.preprocessing.bond_orders import TRIPLE, Choice, System, assign


def random_system(rng: random.Random) -> System:
    """A connected system of up to five atoms with random states, rings and costs."""
    size = rng.randint(2, 5)
    bonds = {(rng.randrange(atom), atom) for atom in range(1, size)}
    bonds |= {tuple(sorted(rng.sample(range(size), 2))) for _ in range(rng.randint(0, 2))}
    earlier = [{first: rng.randint(-5, 5) for first, second in bonds if second == atom} for atom in range(size)]
    choices = [
        [Choice(rng.choice((-1, 0, 0, 1)), 0, rng.choice((0, 1, 1, 2, TRIPLE)), rng.randint(0, 9)) for _ in range(3)]
        for _ in range(size)
    ]
    return System(choices, earlier, rng.choice((-1, 0, 0, 1)), 0)


def by_trying_everything(system: System, max_charges: int) -> tuple[int, int] | None:
    """Number of charges and cost of the best assignment."""
    pairs = [(first, atom) for atom, neighbours in enumerate(system.earlier) for first in neighbours]
    best = None
    for states in itertools.product(*system.choices):
        charges = sum(abs(state.charge) for state in states)
        if sum(state.charge for state in states) != system.charge or charges > max_charges:
            continue
        for orders in itertools.product((0, 1, 2), repeat=len(pairs)):
            made = [
                sorted(o for o, pair in zip(orders, pairs, strict=True) if k in pair and o) for k in range(len(states))
            ]
            wanted = [[2] if state.pi_bonds == TRIPLE else [1] * state.pi_bonds for state in states]
            if made == wanted:
                cost = sum(state.cost for state in states)
                for order, (first, second) in zip(orders, pairs, strict=True):
                    cost += order * system.earlier[second][first] + (order == 2) * bond_orders.TRIPLE_BOND_COST
                best = min(best or (charges, cost), (charges, cost))
    return best


@pytest.mark.parametrize("seed", range(100))
def test_the_best_assignment_is_found(seed):
    system = random_system(random.Random(seed))
    found = assign(system, 4)
    assert (None if found is None else (found.charges, found.cost)) == by_trying_everything(system, 4)


def test_what_is_found_fits():
    """The states are among the choices, each with its pi bonds, and the charges add up."""
    found = [(system, assign(system, 4)) for system in (random_system(random.Random(seed)) for seed in range(100))]
    fitting = [(system, each) for system, each in found if each is not None]
    assert len(fitting) > 20
    for system, each in fitting:
        assert sum(state.charge for state in each.states) == system.charge
        for atom, state in enumerate(each.states):
            assert state in system.choices[atom]
            orders = [order for pair, order in each.pi_bonds.items() if atom in pair]
            assert orders == ([2] if state.pi_bonds == TRIPLE else [1] * state.pi_bonds)


def test_a_bond_can_be_kept_single():
    """Of a chain of four atoms with a pi bond each, the outer bonds are double in every assignment."""
    chain = System([[Choice(0, 0, 1, 0)]] * 4, [{}, {0: 0}, {1: 0}, {2: 0}], 0, 0)
    found = assign(chain, 0)
    assert found is not None
    assert found.pi_bonds == {(0, 1): 1, (2, 3): 1}
    assert assign(chain.without_pi_bond(0, 1), 0) is None
    assert assign(chain.without_pi_bond(1, 2), 0) == found


def test_a_system_that_is_too_wide_is_still_answered_in_the_same_way(monkeypatch):
    """Where states are left out the answer may be worse, but it does not depend on anything but the system."""
    ring = [{}, {0: 0}, {1: 0}, {2: 0}, {3: 0}, {4: 0, 0: 0}]
    system = System([[Choice(0, 0, 1, 0)]] * 6, ring, 0, 0)
    monkeypatch.setattr(bond_orders, "MAX_STATES", 1)
    first, second = assign(system, 0), assign(system, 0)
    assert first is not None
    assert first == second
