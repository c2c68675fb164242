"""Adapters of published data sets, whose files need more than their format to be read. One small file for each."""

from molstream.pipeline.readers.base import Format
from molstream.pipeline.readers.datasets import geom, md17, moleculenet, pcqm4mv2, qm9, qm9_npz

ADAPTERS: dict[str, tuple[Format, ...]] = {
    "pcqm4mv2": pcqm4mv2.FORMATS,
    "qm9": qm9.FORMATS,
    "qm9_npz": qm9_npz.FORMATS,
    "md17": md17.FORMATS,
    "geom": geom.FORMATS,
    "moleculenet": moleculenet.FORMATS,
}
"""The adapters by name; each has a format for every file ending that it reads."""
