"""ComENet, the complete and efficient message-passing network (Wang et al., NeurIPS 2022): a 3D encoder with angles.

An edge j -> i carries its length and three angles, taken from the two nearest neighbours of each of its ends. So angles
and torsions cost as much as distances: their number is that of the edges. Symbols of shapes: ``n`` atoms, ``p``
unordered pairs (i < j) within the cutoff, ``d`` hidden width.
"""

import math
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.training.models.config import ComENetConfig
from molstream.training.models.graph import Incidence, in_float32, radius_pairs
from molstream.training.models.layers import GraphNorm, xavier_linear
from molstream.training.models.readout import READOUTS
from molstream.training.models.schnet import NUM_ATOM_TYPES
from molstream.training.models.symmetry import CHIRAL, INVARIANT, Symmetry

BESSEL_ZEROS = (
    (math.pi, 2.0 * math.pi, 3.0 * math.pi),
    (4.493409457909064, 7.725251836937707, 10.904121659428899),
)
"""First three positive zeros of the spherical Bessel functions j_0 and j_1."""
NUM_RADIAL = len(BESSEL_ZEROS[0])
"""Number of radial functions of each order."""
SERIES_BELOW = 0.5
"""Argument below which the spherical Bessel functions are summed as power series; closed forms cancel near zero."""
Y_0 = math.sqrt(1.0 / (4.0 * math.pi))
"""The spherical harmonic of order 0."""
Y_1 = math.sqrt(3.0 / (4.0 * math.pi))
"""Factor of the spherical harmonics of order 1: Y_10 = Y_1 cos(theta), Y_1+-1 = Y_1 sin(theta) (cos or sin)(phi)."""
COINCIDENT = 1e-3
"""Distance in angstrom below which a direction shrinks proportionally, to zero for coincident atoms."""
COLLINEAR = 1e-2
"""Sine of the angle of two directions below which the normal of their plane shrinks proportionally, to zero."""


class Nearest(NamedTuple):
    """The nearest (row 0) and second-nearest (row 1) neighbour of each atom within the cutoff."""

    number: Tensor
    """int64 [2, n]: the neighbour; n if there is none."""
    direction: Tensor
    """[2, n, 3]: unit vector to the neighbour; zero if there is none."""

    def at(self, atoms: Tensor) -> "Nearest":
        """Those of the given atoms [m]: [2, m] and [2, m, 3]."""
        return Nearest(self.number.index_select(1, atoms), self.direction.index_select(1, atoms))


def nearest_neighbours(pos: Tensor, pairs: Tensor, distance: Tensor) -> Nearest:
    """Find the two nearest neighbours of each atom; of equally near ones that with the lowest number comes first.

    Args:
        pos: [n, 3] positions in angstrom; directions are differentiable with respect to them.
        pairs: int64 [2, p] neighbouring atoms.
        distance: [p] in angstrom.
    """
    num_atoms = pos.shape[0]
    center, other = pairs.flatten(), pairs.flip(0).flatten()
    distance = distance.detach().repeat(2)
    numbers, directions = [], []
    for _ in range(2):
        least = distance.new_full((num_atoms,), torch.inf).scatter_reduce(0, center, distance, "amin")
        candidate = torch.where((distance == least[center]) & (distance < torch.inf), other, num_atoms)
        number = torch.full_like(least, num_atoms, dtype=torch.long).scatter_reduce(0, center, candidate, "amin")
        found = number < num_atoms
        toward = pos.index_select(0, number.clamp(max=num_atoms - 1)) - pos
        numbers.append(number)
        directions.append(torch.where(found.unsqueeze(1), unit(toward), 0.0))
        distance = torch.where(other == number[center], torch.inf, distance)
    return Nearest(torch.stack(numbers), torch.stack(directions))


def unit(vectors: Tensor) -> Tensor:
    """Directions [m, 3] of vectors [m, 3] in angstrom; shorter than one below :data:`COINCIDENT`."""
    return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp(min=COINCIDENT)


def normal(a: Tensor, b: Tensor) -> Tensor:
    """Unit normals [m, 3] of the planes of unit vectors [m, 3]; shorter than one below :data:`COLLINEAR`."""
    product = torch.linalg.cross(a, b)
    return product / torch.linalg.vector_norm(product, dim=1, keepdim=True).clamp(min=COLLINEAR)


def polar_harmonics(toward: Tensor, source: Tensor, nearest: Nearest) -> Tensor:
    """Harmonics of order 1 of the angles theta and phi of edges, without their factor :data:`Y_1`.

    theta is the angle at the target i from the reversed direction of its edge to its nearest neighbour n0, phi the
    torsion about the edge from the plane of n0 to the plane of the second-nearest neighbour n1. With e the unit normal
    of the latter plane, the harmonics are the coordinates of the direction of n0 along -u, e x u and -e for the
    direction u of the edge, which needs neither angles nor their singular derivatives.

    phi is 0 if the source itself is n1. Without n1, or with n1 and the source in line, phi is undefined and e zero: the
    harmonics with phi are zero, their mean over all phi.

    Args:
        toward: [p, 3] unit vectors u from the target of each edge to its source.
        source: int64 [p] source of each edge.
        nearest: neighbours of the target of each edge, of p.

    Returns:
        [p, 3]: cos(theta), sin(theta) cos(phi), sin(theta) sin(phi).
    """
    first, second = nearest.direction
    e = normal(toward, torch.where((nearest.number[1] == source).unsqueeze(1), first, second))
    along, inside = -(first * toward).sum(1), (first * torch.linalg.cross(e, toward)).sum(1)
    return torch.stack([along, inside, -(first * e).sum(1)], dim=1)


def torsion(toward: Tensor, pairs: Tensor, nearest: Nearest) -> Tensor:
    """Cosine and sine of the torsion tau of the bond of each pair, [p, 2]; equal for both directions of the pair.

    It is the torsion, in IUPAC's sign, from a reference neighbour of one atom to one of the other: its nearest
    neighbour, or the second-nearest if the nearest is the other atom itself. Both are zero where tau is undefined: an
    atom has no reference, or it is in line with the pair.

    Args:
        toward: [p, 3] unit vectors from i to j.
        pairs: int64 [2, p] atoms i and j.
        nearest: neighbours of each atom, of n.
    """
    normals = []
    for atom, other in (pairs, pairs.flip(0)):
        own = nearest.at(atom)
        reference = torch.where((own.number[0] == other).unsqueeze(1), own.direction[1], own.direction[0])
        normals.append(normal(toward, reference))
    sine = (toward * torch.linalg.cross(*normals)).sum(1)
    return torch.stack([(normals[0] * normals[1]).sum(1), sine], dim=1)


def spherical_bessel(order: int, x: Tensor) -> Tensor:
    """The spherical Bessel function j_0 or j_1 of x >= 0, elementwise; its derivatives are finite at 0 too."""
    square, series, far = x.square(), torch.ones_like(x), x.clamp(min=SERIES_BELOW)
    for k in range(6, 0, -1):  # up to x^12, exact in float64
        series = 1.0 - square / (2 * k * (2 * k + 2 * order + 1)) * series
    closed = far.sin() / far
    if order == 1:
        series, closed = x / 3.0 * series, (closed - far.cos()) / far
    return torch.where(x < SERIES_BELOW, series, closed)


def radial_basis(order: int, distance: Tensor, cutoff: float) -> Tensor:
    """Radial functions b_ln(r) = sqrt(2) / |j_{l+1}(zeta_ln)| j_l(zeta_ln r / cutoff) of order l, 0 or 1; [p, 3].

    zeta_ln is the n-th zero of j_l, so that all are zero at the cutoff. There |j_1(zeta_0n)| = 1 / zeta_0n and
    |j_2(zeta_1n)| = 1 / sqrt(1 + zeta_1n^2).
    """
    zeros = distance.new_tensor(BESSEL_ZEROS[order])
    return (2.0 * (zeros.square() + order)).sqrt() * spherical_bessel(order, distance.unsqueeze(1) / cutoff * zeros)


def edge_features(pos: Tensor, batch: Tensor, cutoff: float, chirality: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of atoms within the cutoff, and the features of their edges, in at least float32.

    Args:
        pos: [n, 3] positions in angstrom; the features are differentiable with respect to them.
        batch: int64 [n] molecule of each atom, ascending.
        cutoff: in angstrom.
        chirality: whether phi and tau keep their sign. Otherwise they are folded to [0, pi], their absolute values.

    Returns:
        The pairs (i, j), int64 [2, p].
        b_0n Y_00 (three numbers) and b_1n Y_1m(theta, phi) (nine, m changing fastest) of the edges j -> i and then of
        the edges i -> j, [2, p, 12].
        b_0n Y_00 and b_1n Y_10(tau) of each pair, [p, 6], with the sine of tau three more, [p, 9].
    """
    pos = in_float32(pos)
    pairs, distance = radius_pairs(pos, batch, cutoff)
    i, j = pairs
    nearest = nearest_neighbours(pos, pairs, distance)
    toward = unit(pos.index_select(0, j) - pos.index_select(0, i))
    harmonics = torch.stack([polar_harmonics(toward, j, nearest.at(i)), polar_harmonics(-toward, i, nearest.at(j))])
    circular = torsion(toward, pairs, nearest)
    if not chirality:
        harmonics = torch.cat([harmonics[..., :2], harmonics[..., 2:].abs()], dim=-1)
        circular = circular[:, :1]
    b_0 = Y_0 * radial_basis(0, distance, cutoff)
    b_1 = Y_1 * radial_basis(1, distance, cutoff).unsqueeze(2)
    polar = torch.cat([b_0.expand(2, -1, -1), (b_1 * harmonics.unsqueeze(2)).flatten(2)], dim=2)
    return pairs, polar, torch.cat([b_0, (b_1 * circular.unsqueeze(1)).flatten(1)], dim=1)


class Filter(nn.Module):
    """Two linear maps without biases, through a width between them, of few features: applied as their product."""

    def __init__(self, in_features: int, middle: int, out_features: int):
        super().__init__()
        self.inner = nn.Parameter(torch.empty(middle, in_features))
        self.outer = nn.Parameter(torch.empty(out_features, middle))
        nn.init.xavier_uniform_(self.inner)
        nn.init.xavier_uniform_(self.outer)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [..., in] to [..., out]."""
        return F.linear(features, self.outer @ self.inner)


class Convolution(nn.Module):
    """swish(U (R sum_j Q(F_ij) x_j + S x_i)), with Q a :class:`Filter` of the features F of edges."""

    def __init__(self, config: ComENetConfig, num_features: int):
        super().__init__()
        hidden = config.hidden
        self.filter = Filter(num_features, config.middle, hidden)
        self.message, self.update = xavier_linear(hidden, hidden), xavier_linear(hidden, hidden)
        self.own = nn.Linear(hidden, hidden, bias=False)
        nn.init.xavier_uniform_(self.own.weight)

    def forward(self, x: Tensor, x_j: Tensor, features: Tensor, target: Incidence) -> Tensor:
        """Update atoms [n, d] by the sources' rows [2, p, d] and features of edges, [2, p, k] or [p, k] for both."""
        messages = target.sum((x_j * in_float32(self.filter(features))).flatten(0, 1))
        return F.silu(self.update(self.message(messages.to(x.dtype)) + self.own(x)))


class Block(nn.Module):
    """A convolution by theta and phi and one by tau, joined; dense residual layers; normalisation by molecule."""

    def __init__(self, config: ComENetConfig):
        super().__init__()
        hidden, num_circular = config.hidden, 2 if config.chirality else 1
        self.enter = xavier_linear(hidden, hidden)
        self.polar = Convolution(config, 4 * NUM_RADIAL)
        self.torsional = Convolution(config, (1 + num_circular) * NUM_RADIAL)
        self.join = xavier_linear(2 * hidden, hidden)
        self.dense = nn.ModuleList(xavier_linear(hidden, hidden) for _ in range(config.num_dense))
        self.norm = GraphNorm(hidden)
        self.leave = xavier_linear(hidden, hidden)

    def forward(self, x: Tensor, edges: "Edges", molecules: Incidence) -> Tensor:
        """Update the atoms [n, d]; ``molecules`` maps atoms to molecules."""
        x = F.silu(self.enter(x))
        x_j = edges.source.gather(in_float32(x)).view(2, -1, x.shape[1])
        polar = self.polar(x, x_j, edges.polar.to(x.dtype), edges.target)
        torsional = self.torsional(x, x_j, edges.torsional.to(x.dtype), edges.target)
        h = self.join(torch.cat([polar, torsional], dim=1)) + x
        for dense in self.dense:
            h = F.silu(dense(h)) + h
        return self.leave(self.norm(h, molecules))


class Edges(NamedTuple):
    """Both directions of the pairs of atoms within the cutoff: first j -> i of all pairs, then i -> j."""

    source: Incidence
    """Source of each of the 2 p edges."""
    target: Incidence
    """Target of each of the 2 p edges."""
    polar: Tensor
    """[2, p, 12]: features of lengths, theta and phi."""
    torsional: Tensor
    """[p, 6 or 9]: features of lengths and tau, equal in both directions."""


class ComENet(nn.Module):
    """ComENet encoder: atom representations [n, hidden] from elements, distances, angles and torsions.

    It has 3,587,328 parameters at the paper's sizes, 3,588,096 with ``chirality``. Distances, directions and features
    of edges are at least float32 in every precision of the network; messages are summed in float32. Linear layers start
    xavier-uniform with zero biases. Every feature is zero at the cutoff, but the choice of the nearest neighbours is
    not continuous: where two of them change their order, or are equally near and the lowest atom number decides, the
    output jumps. The normalisation removes what the atoms of a molecule share: an atom alone has the same row whatever
    its element, as long as the scales of the means are 1, their initial value; and bfloat16 costs some 5 %.

    Deviations: angles that are undefined are masked (the original takes the first edge of the batch for a missing
    neighbour); torsions are folded to [0, pi] by their absolute values (the original adds pi to negative ones, which
    does not tell cis from trans, and lets rounding decide for planar molecules); ``chirality`` keeps their sign; the
    layers that turn every block's rows into an energy are left out; all 119 atom types are embedded, not 95.
    """

    stacks: ClassVar[tuple[str, ...]] = ("blocks",)

    def __init__(self, config: ComENetConfig):
        super().__init__()
        self.config = config
        self.readout = READOUTS[config.readout]
        self.atom_embedding = nn.Embedding(NUM_ATOM_TYPES, config.hidden)
        nn.init.uniform_(self.atom_embedding.weight, -math.sqrt(3.0), math.sqrt(3.0))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))

    @property
    def symmetry(self) -> Symmetry:
        """Symmetry of the output, which sees handedness if the configuration says so."""
        return CHIRAL if self.config.chirality else INVARIANT

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode a batch; returns atom representations.

        Args:
            z: int64 [n] atomic number - 1.
            pos: [n, 3] positions in angstrom; the output is differentiable with respect to them.
            batch: int64 [n] molecule of each atom, ascending.
            generator: unused, since there is no dropout here; an argument of every 3D encoder.

        Returns:
            [n, hidden].
        """
        pairs, polar, torsional = edge_features(pos, batch, self.config.cutoff, self.config.chirality)
        target, source = (Incidence(ends.flatten(), z.numel()) for ends in (pairs, pairs.flip(0)))
        edges = Edges(source, target, polar, torsional)
        molecules = Incidence(batch, int(batch[-1]) + 1)
        x = F.silu(self.atom_embedding(z))
        for block in self.blocks:
            x = block(x, edges, molecules)
        return x
