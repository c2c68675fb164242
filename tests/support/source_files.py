"""Files of molecules in every format, and functions that read them in tests."""

import bz2
import gzip
import io
import lzma
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from pyarrow import feather
from rdkit import Chem

from molstream.pipeline.readers.discover import find_files
from molstream.pipeline.readers.prepare import open_sources
from molstream.pipeline.readers.split import ReadConfig, cut, read_split
from molstream.preprocessing.fields import RawMolecule

SMILES = ["CCO", "c1ccccc1", "C", "[Na+].[Cl-]", "C/C=C/C", "N", "O=C(O)c1ccccc1"]
COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def sdf(smiles: Sequence[str], values: Sequence[str]) -> str:
    """Write an SD file with the data item ``value``."""
    entries = [
        f"{Chem.MolToMolBlock(Chem.MolFromSmiles(s))}> <value>\n{value}\n\n> <name>\nx\n\n$$$$\n"
        for s, value in zip(smiles, values, strict=True)
    ]
    return "".join(entries)


VALUES = ["1.5", "", "-2", "1e3", "0", "7", "8"]
TABLE = pa.table({"name": ["n"] * 7, "smiles": SMILES, "value": [float(v) if v else None for v in VALUES]})


def columnar(write, **options) -> bytes:
    """Write the table with pyarrow to bytes."""
    sink = io.BytesIO()
    write(TABLE, sink, **options)
    return sink.getvalue()


def ipc(new, table: pa.Table = TABLE) -> bytes:
    """Write the table as Arrow IPC, in batches of two rows."""
    sink = io.BytesIO()
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


TEXTS = {
    "csv": "name,smiles,value\n" + "".join(f"n,{s},{v}\n" for s, v in zip(SMILES, VALUES)),
    "tsv": "name\tsmiles\tvalue\n" + "".join(f"n\t{s}\t{v}\n" for s, v in zip(SMILES, VALUES)),
    "smi": "".join(f"{s} name of {k}\n" for k, s in enumerate(SMILES)),
    "sdf": sdf(SMILES, VALUES),
    "jsonl": "".join(f'{{"smiles": "{s}", "value": {v or "null"}}}\n' for s, v in zip(SMILES, VALUES)),
}
FORMATS = {
    **{format: text.encode() for format, text in TEXTS.items()},
    "parquet": columnar(pq.write_table, row_group_size=3),
    "arrow": ipc(pa.ipc.new_file),
    "ipc": ipc(pa.ipc.new_stream),
    "feather": columnar(feather.write_feather, compression="lz4", chunksize=4),
}


def read(*files: Path | str, rows: int = 1000, targets: Sequence[str] = (), column=None, limit=None, **options):
    """Read all records of the files; compressed ones are unpacked next to the first one."""
    config = ReadConfig(smiles_column=column, target_columns=list(targets), **options)
    work = Path(find_files([str(file) for file in files], config)[0].given).parent / "work"
    work.mkdir(exist_ok=True)
    splits = cut(open_sources([str(file) for file in files], work, config), rows, limit)
    assert all(0 < split.rows <= rows for split in splits)
    return [record for split in splits for record in read_split(split)]


def table(tmp_path: Path, body: bytes, rows: int = 1000, targets: Sequence[str] = ("value",)):
    """Read the records of a CSV with the columns smiles and value."""
    file = tmp_path / "t.csv"
    file.write_bytes(b"smiles,value\n" + body)
    return read(file, rows=rows, targets=targets)


def shown(records) -> list[str]:
    """Show each record as a word: the text of a molecule, or the reason of a rejection."""
    return [r.text if isinstance(r, RawMolecule) else f"<{r.reason}>" for r in records]
