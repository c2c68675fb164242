"""Molecules as a struct of arrays, with no object per molecule: blocks decode to it, batches are collated from it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pyarrow as pa

from molstream.preprocessing.fields import FIELDS, Field

FIELD_BY_NAME = {field.name: field for field in FIELDS}


@dataclass(frozen=True)
class Columns:
    """The chosen fields of ``num_rows`` molecules.

    ``values[name]`` holds a scalar field as [rows], and a ragged field as all its entries end to end with the symbolic
    dimensions outermost: ``atom_features`` [sum n, 9], ``bond_index`` [sum b, 2], ``positions`` [sum c n, 3],
    ``targets`` [rows t]. ``offsets[name]``, int64 [rows + 1] from 0, says where each molecule's entries begin.
    """

    num_rows: int
    values: dict[str, np.ndarray]
    offsets: dict[str, np.ndarray]

    @classmethod
    def from_batch(cls, batch: pa.RecordBatch, names: Iterable[str]) -> "Columns":
        """The named fields of an Arrow record batch, without a copy where Arrow allows it."""
        values, offsets = {}, {}
        for name in names:
            field, column = FIELD_BY_NAME[name], batch.column(name)
            if field.is_ragged:
                offset = column.offsets.to_numpy().astype(np.int64)
                values[name] = _dense(column.values, offset[0], offset[-1], field)
                offsets[name] = offset - offset[0]
            else:
                values[name] = column.to_numpy(zero_copy_only=False)
        return cls(batch.num_rows, values, offsets)

    def slice(self, start: int, stop: int) -> "Columns":
        """Rows ``start`` to ``stop`` (excluded), as views."""
        values, offsets = {}, {}
        for name, value in self.values.items():
            if name in self.offsets:
                offset = self.offsets[name][start : stop + 1]
                values[name], offsets[name] = value[offset[0] : offset[-1]], offset - offset[0]
            else:
                values[name] = value[start:stop]
        return Columns(stop - start, values, offsets)

    def take(self, rows: np.ndarray) -> "Columns":
        """The given rows, in that order: one vectorised ragged gather per field."""
        values, offsets = {}, {}
        # Fields of equal lengths, as those of bonds, have their entries in the same places.
        places: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        for name, value in self.values.items():
            if name in self.offsets:
                key = self.offsets[name].tobytes()
                if key not in places:
                    places[key] = _entries(self.offsets[name], rows)
                entries, offsets[name] = places[key]
                values[name] = value.take(entries, axis=0)
            else:
                values[name] = value[rows]
        return Columns(len(rows), values, offsets)

    @classmethod
    def concat(cls, parts: Sequence["Columns"]) -> "Columns":
        """All rows of ``parts``, which have the same fields, one after the other."""
        if len(parts) == 1:
            return parts[0]
        values = {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values}
        offsets = {}
        for name in parts[0].offsets:
            first = accumulate((int(part.offsets[name][-1]) for part in parts), initial=0)
            ends = [part.offsets[name][1:] + begin for part, begin in zip(parts, first)]
            offsets[name] = np.concatenate([parts[0].offsets[name][:1], *ends])
        return cls(sum(part.num_rows for part in parts), values, offsets)


def _entries(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64: positions of the entries of chosen rows, and the offsets [rows + 1] of these rows after they are taken."""
    first, lengths = offsets[:-1][rows], np.diff(offsets)[rows]
    after = np.concatenate([[0], np.cumsum(lengths)])
    return np.arange(after[-1]) + np.repeat(first - after[:-1], lengths), after


def _dense(values: pa.Array, start: int, stop: int, field: Field) -> np.ndarray:
    """Entries ``start`` to ``stop`` of a list column's values, with the field's fixed dimensions as the last axis."""
    if field.width == 1:
        return values.to_numpy()[start:stop]
    # The values below a fixed-size list ignore its slice, so its offset is added.
    rows = values.values.to_numpy().reshape(-1, field.width)
    return rows[values.offset + start : values.offset + stop]
