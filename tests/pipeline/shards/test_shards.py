"""Shard files: same molecules same bytes, blocks readable alone, and by anyone with pyarrow and webdataset."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from molstream.errors import DataError
from molstream.io.hashing import file_sha256
from molstream.pipeline.shards.codec import SCHEMA, decode, encode
from molstream.pipeline.shards.containers import CONTAINERS
from molstream.pipeline.shards.manifest import Shard
from molstream.pipeline.shards.reader import ShardDataset
from molstream.pipeline.shards.writer import write_shard
from tests.support.samples import assert_all_same, decoded, varied, write_dataset

MOLECULES = varied(25)


def batches(*sizes: int) -> list[pa.RecordBatch]:
    """The molecules in record batches of these sizes, some cut from larger ones."""
    starts = np.cumsum([0, *sizes])
    whole = encode(MOLECULES)
    return [
        whole.slice(start, size) if k % 2 else encode(MOLECULES[start : start + size])
        for k, (start, size) in enumerate(zip(starts, sizes))
    ]


def write(folder: Path, container: str, *sizes: int) -> Shard:
    """The molecules as a shard of blocks of 8."""
    folder.mkdir(exist_ok=True)
    shard = write_shard(folder, 3, container, 8, batches(*sizes))
    assert shard is not None
    return shard


def committed(folder: Path, container: str) -> ShardDataset:
    """A dataset of two shards with the molecules twice."""
    return ShardDataset(write_dataset(folder, [MOLECULES, MOLECULES], container))


@pytest.fixture(params=CONTAINERS)
def container(request) -> str:
    return request.param


def test_bytes_do_not_depend_on_how_the_rows_arrived(tmp_path, container):
    written = [
        write(tmp_path / str(k), container, *sizes)
        for k, sizes in enumerate([(25,), (1,) * 25, (3, 20, 2), (0, 8, 8, 9), (24, 1)])
    ]
    assert len({shard.sha256 for shard in written}) == 1
    assert len(set(written)) == 1


def test_the_record_of_a_shard_says_what_the_file_is(tmp_path, container):
    shard = write(tmp_path, container, 25)
    file = tmp_path / shard.name
    assert [block.rows for block in shard.blocks] == [8, 8, 8, 1]
    assert (shard.rows, shard.bytes, shard.sha256) == (25, file.stat().st_size, file_sha256(file))
    assert shard.atoms == sum(m.num_atoms for m in MOLECULES)
    assert [p.name for p in tmp_path.iterdir()] == [shard.name]


def test_every_block_can_be_read_from_its_bytes_alone(tmp_path, container):
    shard = write(tmp_path, container, 25)
    data = (tmp_path / shard.name).read_bytes()
    for k, block in enumerate(shard.blocks):
        alone = CONTAINERS[container].decode(data[block.offset : block.offset + block.bytes], SCHEMA, SCHEMA.names)
        assert_all_same(decode(alone), MOLECULES[8 * k : 8 * k + 8])


def test_a_projection_holds_the_named_columns_in_that_order(tmp_path, container):
    shard = write(tmp_path, container, 25)
    block = shard.blocks[1]
    data = (tmp_path / shard.name).read_bytes()[block.offset : block.offset + block.bytes]
    names = ["positions", "row"]
    batch = CONTAINERS[container].decode(data, SCHEMA, names)
    assert set(batch.schema.names) == set(names)
    assert batch.column("row").to_pylist() == list(range(8, 16))
    assert batch.column("positions").equals(encode(MOLECULES[8:16]).column("positions"))


def test_no_molecules_are_no_file(tmp_path, container):
    assert write_shard(tmp_path, 0, container, 8, []) is None
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_writing_leaves_no_shard(tmp_path, container):
    def failing():
        yield encode(MOLECULES)
        raise DataError("the source went away")

    with pytest.raises(DataError, match="went away"):
        write_shard(tmp_path, 0, container, 8, failing())
    assert list(tmp_path.iterdir()) == []


def test_pyarrow_reads_an_arrow_shard(tmp_path):
    shard = write(tmp_path, "arrow", 25)
    with pa.ipc.open_file(tmp_path / shard.name) as file:
        read = [m for k in range(file.num_record_batches) for m in decode(file.get_batch(k))]
    assert_all_same(read, MOLECULES)


def test_ten_lines_with_webdataset_and_pyarrow_read_a_tar(tmp_path):
    shard = write(tmp_path, "webdataset", 25)
    script = f"""
import sys
import pyarrow as pa
import webdataset
sink = open({str(tmp_path / "copy.arrows")!r}, "wb")
writer = None
for member in webdataset.WebDataset({str(tmp_path / shard.name)!r}, shardshuffle=False):
    block = pa.ipc.open_stream(member["arrow"]).read_all()
    writer = writer or pa.ipc.new_stream(sink, block.schema)
    writer.write_table(block)
writer.close()
sink.close()
assert not any(name.split(".")[0] in ("pipeline", "preprocessing", "training") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    assert_all_same(decoded((tmp_path / "copy.arrows").read_bytes()), MOLECULES)


def test_rows_are_found_across_blocks_and_shards(tmp_path, container):
    dataset = committed(tmp_path, container)
    rows = np.array([0, 7, 8, 24, 25, 49, 33, 7])
    assert dataset.read_rows(rows, ["row"]).values["row"].tolist() == [k % 25 for k in rows]
    assert dataset.num_rows == 50


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_dataset_with_a_missing_or_short_shard_is_refused_by_name(tmp_path, container, damage):
    name = committed(tmp_path, container).manifest.shards[1].name
    if damage == "missing":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-7])
    with pytest.raises(DataError, match=rf"{name}.*molstream verify"):
        ShardDataset(tmp_path)


def test_nothing_is_read_from_a_shard_of_which_a_bit_was_flipped(tmp_path, container):
    dataset = committed(tmp_path, container)
    shard = dataset.manifest.shards[0]
    file = tmp_path / shard.name
    data = bytearray(file.read_bytes())
    data[shard.blocks[2].offset + shard.blocks[2].bytes // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match=rf"{shard.name}: its sha256 is .*molstream verify"):
        ShardDataset(tmp_path).read_block(0, 0, ["positions"])
    assert dataset.read_block(1, 1, ["row"]).num_rows == 8


def test_a_block_that_is_damaged_later_is_an_error_that_names_shard_and_block(tmp_path, container):
    dataset = committed(tmp_path, container)
    shard = dataset.manifest.shards[0]
    with dataset.open_shard(0) as file:
        block = shard.blocks[2]
        with (tmp_path / shard.name).open("r+b") as stream:
            stream.seek(block.offset)
            stream.write(bytes(block.bytes))
        with pytest.raises(DataError, match=rf"{shard.name}, block 2"):
            file.read_block(2, ["positions"])
        assert file.read_block(1, ["row"]).num_rows == 8
