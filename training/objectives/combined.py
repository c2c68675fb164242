"""Combines several objectives on the same encoders into one: a weighted sum of their losses."""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from molstream.randomness import keyed_seed
from molstream.training.data.batch import MoleculeBatch
from molstream.training.diffusion.conditional import Conditional
from molstream.training.models.encoders import EncodedOnce, Encoders
from molstream.training.objectives.base import GlobalBatch, GlobalShare, Objective, ObjectiveOutput, Split, Term


class CombinedObjective(Objective):
    """L = sum_k w_k L_k over named objectives; with several, metrics are logged under the name of their objective.

    The first objective draws from the given generator, the others from generators keyed by their names, so that adding
    an objective does not change the noise of the others.

    Args:
        parts: objectives by name; their parameters are called ``NAME.*``.
        weights: w_k by name.
    """

    def __init__(self, parts: Mapping[str, Objective], weights: Mapping[str, float]):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self._parts, self._weights = dict(parts), dict(weights)
        self.required_fields = frozenset().union(*(part.required_fields for part in parts.values()))
        self.modalities = frozenset().union(*(part.modalities for part in parts.values()))
        self.notes = tuple(note for part in parts.values() for note in part.notes)
        self.is_global = any(part.is_global for part in parts.values())

    @property
    def parts(self) -> dict[str, Objective]:
        """The combined objectives by name, in order."""
        return dict(self._parts)

    def terms(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> dict[str, Term]:
        """Compute the weighted terms of all objectives; with several, branches and metrics begin with ``NAME/``.

        All share one pass of each encoder, whose dropout masks the first objective to use it draws.
        """
        shared = EncodedOnce(encoders)
        return self._named(
            {name: part.terms(batch, shared, own) for name, part, own in self._with_generators(generator)}
        )

    def split(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> Split:
        """Compute what each objective computes of the micro-batch alone, with the draws of :meth:`terms`."""
        shared = EncodedOnce(encoders)
        parts = {name: part.split(batch, shared, own) for name, part, own in self._with_generators(generator)}
        codes = {f"{name}/{code}": rows for name, part in parts.items() for code, rows in part.codes.items()}
        return Split(self._named({name: part.terms for name, part in parts.items()}), codes)

    def global_terms(self, whole: GlobalBatch, generator: torch.Generator) -> dict[str, Term]:
        """Compute the weighted terms of all objectives on their own codes of the global batch."""
        found = {}
        for name, part, own in self._with_generators(generator):
            start = f"{name}/"
            codes = {code.removeprefix(start): rows for code, rows in whole.codes.items() if code.startswith(start)}
            found[name] = part.global_terms(replace(whole, codes=codes), own)
        return self._named(found)

    def end_step(self, generator: torch.Generator) -> None:
        """Update what learns without a gradient, in every objective."""
        for _, part, own in self._with_generators(generator):
            part.end_step(own)

    def forward(
        self,
        batch: MoleculeBatch,
        encoders: Encoders,
        generator: torch.Generator,
        share: GlobalShare | None = None,
    ) -> ObjectiveOutput:
        """Compute the weighted sum of the terms and their metrics; with several objectives, also each one's loss."""
        output = super().forward(batch, encoders, generator, share)
        if len(self._parts) == 1:
            return output
        losses = {f"{name}/loss": output.branch_loss(f"{name}/") / self._weights[name] for name in self._parts}
        return replace(output, metrics={**losses, **output.metrics})

    def conformer_distribution(self, batch: MoleculeBatch, encoders: Encoders) -> Conditional:
        """Distribution of positions by the first objective that learns it; see :class:`Objective`."""
        return self._first("conformer_distribution").conformer_distribution(batch, encoders)

    def bond_distribution(self, batch: MoleculeBatch, encoders: Encoders) -> Conditional:
        """Distribution of bonds and charges by the first objective that learns it; see :class:`Objective`."""
        return self._first("bond_distribution").bond_distribution(batch, encoders)

    def learning_rate_scale(self, name: str) -> float:
        """Factor on the learning rate: an objective's own for its parameters, the product of all for the encoders'."""
        owner, _, inner = name.removeprefix("objective.").partition(".")
        if name.startswith("objective."):
            return self._parts[owner].learning_rate_scale(f"objective.{inner}")
        scale = 1.0
        for part in self._parts.values():
            scale *= part.learning_rate_scale(name)
        return scale

    def _with_generators(self, generator: torch.Generator) -> Iterator[tuple[str, Objective, torch.Generator]]:
        """Name, objective and generator of each part."""
        for number, (name, part) in enumerate(self._parts.items()):
            yield name, part, generator if number == 0 else _keyed(generator, name)

    def _named(self, parts: Mapping[str, Mapping[str, Term]]) -> dict[str, Term]:
        """The weighted terms of all objectives; with several, branches and metrics begin with ``NAME/``."""
        found: dict[str, Term] = {}
        for name, terms in parts.items():
            for branch, term in terms.items():
                weighted = replace(term, coefficient=self._weights[name] * term.coefficient)
                found |= {branch: weighted} if len(self._parts) == 1 else {f"{name}/{branch}": _under(name, weighted)}
        return found

    def _first(self, method: str) -> Objective:
        """Return the first objective that overrides ``method``; otherwise the first one, whose ``method`` raises."""
        own = (part for part in self._parts.values() if getattr(type(part), method) is not getattr(Objective, method))
        return next(own, next(iter(self._parts.values())))


def _keyed(generator: torch.Generator, name: str) -> torch.Generator:
    seed = keyed_seed(generator.initial_seed(), zlib.crc32(name.encode()))
    return torch.Generator(generator.device).manual_seed(seed)


def _under(name: str, term: Term) -> Term:
    """Prefix the metrics of a term with the name of its objective."""

    def renamed(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"{name}/{key}": value for key, value in values.items()}

    return replace(term, metrics=renamed(term.metrics), per_molecule=renamed(term.per_molecule))
