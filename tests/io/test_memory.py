"""Free memory: what is left within the tightest of the limits."""

import pytest

from molstream.io import memory
from molstream.io.memory import free_memory, total_memory
from tests.support.room import ROOM, little_room


def test_free_memory_is_part_of_the_machine_s():
    assert 0 < free_memory() < total_memory()


def test_a_limit_of_the_process_counts():
    with little_room():
        assert ROOM // 2 < free_memory() <= ROOM


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "anon 1\ninactive_file 200\n"}, 500),
        ({"memory.max": "max\n", "memory.current": "700\n"}, memory.UNLIMITED),
        ({"memory.limit_in_bytes": "1000", "memory.usage_in_bytes": "900"}, 100),
        ({"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "1"}, memory.UNLIMITED),
        ({}, memory.UNLIMITED),
    ],
)
def test_a_control_group_leaves_its_limit_less_what_cannot_go(tmp_path, files, left):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert memory._left_in(tmp_path) == left
