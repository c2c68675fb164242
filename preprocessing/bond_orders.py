"""The best way to lay charges and double bonds over the bonds of a conjugated system, found by dynamic programming.

The atoms are taken one after the other. What the rest of the system needs to know of those already taken is which of
their bonds are still open, which takes few values, since molecules are long and thin rather than round. The answer is a
function of the system alone: two systems with equal numbers give equal answers, whatever drawings they come from.
"""

from collections.abc import Iterator
from dataclasses import dataclass

MAX_STATES = 2000
"""Partial answers that are kept per atom, the best ones: real molecules have at most some hundreds, fullerenes more."""

TRIPLE = -1
"""An atom's open pi bonds as it is written: the number of double bonds, or this for one triple bond."""

TRIPLE_BOND_COST = 5
"""Azides and diazo compounds are written with two double bonds."""


@dataclass(frozen=True)
class Choice:
    """One electronic state of an atom: its charge, its unpaired electron, and its pi bonds."""

    charge: int
    radical: int
    pi_bonds: int
    """Double bonds to atoms of the system; :data:`TRIPLE` for one triple bond."""
    cost: int
    separated: int = 0
    """What it counts for among the charges, beyond its own."""


@dataclass(frozen=True)
class System:
    """A conjugated system without its charges and bond orders."""

    choices: list[list[Choice]]
    """The states of each atom."""
    earlier: list[dict[int, int]]
    """For each atom the neighbours that come before it, with the cost of a pi bond to them."""
    charge: int
    """The sum over all atoms."""
    radicals: int
    """Unpaired electrons of all atoms."""

    def without_pi_bond(self, begin: int, end: int) -> "System":
        """The system with a bond, ``begin`` before ``end``, that can only be single."""
        earlier = [dict(neighbours) for neighbours in self.earlier]
        del earlier[end][begin]
        return System(self.choices, earlier, self.charge, self.radicals)


@dataclass(frozen=True)
class Assignment:
    """A state for each atom, and the pi bonds: the best ones."""

    states: list[Choice]
    pi_bonds: dict[tuple[int, int], int]
    """1 for a double, 2 for a triple bond, by the two atoms, the lower one first. Single bonds are left out."""
    charges: int
    """Number of charges."""
    cost: int


Trail = tuple["Trail | None", Choice, tuple[tuple[int, int], ...]]
"""What was chosen so far, last atom first: the rest, the atom's state, its pi bonds to earlier atoms."""

State = tuple[tuple[int, ...], int, int, int]
"""Open pi bonds of the open atoms; sum of charges; number of charges; unpaired electrons."""


def assign(system: System, max_charges: int) -> Assignment | None:
    """The assignment with the fewest charges and, among those, of the lowest cost; None if there is none.

    Args:
        system: its order of atoms decides between equal ones.
        max_charges: most charges to try.
    """
    last_neighbour = list(range(len(system.choices)))
    for atom, neighbours in enumerate(system.earlier):
        for neighbour in neighbours:
            last_neighbour[neighbour] = atom
    for charges in range(abs(system.charge), max_charges + 1, 2):
        found = _assigned(system, last_neighbour, charges)
        if found is not None:
            return found
    return None


def _assigned(system: System, last_neighbour: list[int], charges: int) -> Assignment | None:
    choices_within = [
        [c for c in choices if abs(c.charge) + c.separated + abs(system.charge - c.charge) <= charges]
        for choices in system.choices
    ]
    open_atoms: list[int] = []
    states: dict[State, tuple[int, Trail | None]] = {((), 0, 0, 0): (0, None)}
    for atom, choices in enumerate(choices_within):
        kept = [place for place, other in enumerate(open_atoms) if last_neighbour[other] > atom]
        closed = [place for place, other in enumerate(open_atoms) if last_neighbour[other] <= atom]
        neighbours = [(open_atoms.index(other), other, cost) for other, cost in system.earlier[atom].items()]
        stays = last_neighbour[atom] > atom
        after: dict[State, tuple[int, Trail | None]] = {}
        for (pi, charge, count, radicals), (cost, trail) in states.items():
            for choice in choices:
                total, unpaired = charge + choice.charge, radicals + choice.radical
                number = count + abs(choice.charge) + choice.separated
                if number + abs(system.charge - total) > charges or unpaired > system.radicals:
                    continue
                wanted = choice.pi_bonds
                ways = _bonded(pi, wanted, neighbours) if wanted and neighbours else [(pi, wanted, (), 0)]
                for rest, left, bonds, bond_cost in ways:
                    if (left and not stays) or any(rest[place] for place in closed):
                        continue
                    open_pi = (*(rest[place] for place in kept), *((left,) if stays else ()))
                    state, price = (open_pi, total, number, unpaired), cost + choice.cost + bond_cost
                    if state not in after or price < after[state][0]:
                        after[state] = price, (trail, choice, bonds)
        open_atoms = [open_atoms[place] for place in kept] + ([atom] if stays else [])
        states = after if len(after) <= MAX_STATES else dict(sorted(after.items(), key=_price)[:MAX_STATES])
    final = [
        (cost, trail)
        for (_, charge, count, radicals), (cost, trail) in states.items()
        if (charge, count, radicals) == (system.charge, charges, system.radicals)
    ]
    if not final:
        return None
    cost, trail = min(final, key=lambda answer: answer[0])
    return _read(trail, charges, cost)


def _price(entry: tuple[State, tuple[int, Trail | None]]) -> tuple[int, int]:
    (_, _, count, _), (cost, _) = entry
    return count, cost


Bonded = tuple[tuple[int, ...], int, tuple[tuple[int, int], ...], int]


def _bonded(open_pi: tuple[int, ...], wanted: int, neighbours: list[tuple[int, int, int]]) -> Iterator[Bonded]:
    """Every way to bond an atom that wants some pi bonds to its earlier neighbours.

    Yields:
        Open pi bonds of the open atoms and of this atom afterwards, the pi bonds made, and their cost.
    """
    if not neighbours or not wanted:
        yield open_pi, wanted, (), 0
        return
    (place, other, cost), *others = neighbours
    yield from _bonded(open_pi, wanted, others)
    offered = open_pi[place]
    if (wanted == TRIPLE) == (offered == TRIPLE) and offered:
        order, remaining = (2, (0, 0)) if wanted == TRIPLE else (1, (offered - 1, wanted - 1))
        price = 2 * cost + TRIPLE_BOND_COST if order == 2 else cost
        taken = (*open_pi[:place], remaining[0], *open_pi[place + 1 :])
        for rest, left, bonds, more in _bonded(taken, remaining[1], others):
            yield rest, left, ((other, order), *bonds), price + more


def _read(trail: Trail | None, charges: int, cost: int) -> Assignment:
    steps: list[tuple[Choice, tuple[tuple[int, int], ...]]] = []
    while trail is not None:
        trail, choice, bonds = trail
        steps.append((choice, bonds))
    steps.reverse()
    pi_bonds = {(other, atom): order for atom, (_, bonds) in enumerate(steps) for other, order in bonds}
    return Assignment([choice for choice, _ in steps], pi_bonds, charges, cost)
