"""Which slots of which hosts a job takes: hostfile and filters, against how the launcher reads them."""

import pytest
from deepspeed.launcher.runner import fetch_hostfile, parse_inclusion_exclusion

from molstream.errors import ConfigError
from molstream.pipeline.order.lanes import lanes_of_rank
from molstream.training.launch.hostfile import describe_slots, filter_slots, num_slots, read_hostfile, share_lanes


@pytest.fixture
def hostfile(tmp_path):
    path = tmp_path / "hostfile"
    path.write_text("# rack 1\nnode1 slots=4\n\nnode2   slots=2\n10.0.0.3 slots=3\n")
    return path


@pytest.mark.parametrize(
    ("include", "exclude"),
    [("", ""), ("node2", ""), ("node1:1,3@10.0.0.3", ""), ("", "node2"), ("", "node1:0@10.0.0.3:0,2")],
)
def test_hostfile_and_filters_are_read_as_the_launcher_reads_them(hostfile, include, exclude):
    theirs = parse_inclusion_exclusion(fetch_hostfile(str(hostfile)), include, exclude)
    ours = filter_slots(read_hostfile(hostfile), include, exclude)
    assert list(ours.items()) == list(theirs.items())
    # What is handed to the launcher on a host names the same slots again.
    assert parse_inclusion_exclusion(fetch_hostfile(str(hostfile)), describe_slots(ours), "") == dict(theirs)


def test_the_number_of_processes_divides_the_lanes_and_is_the_largest():
    slots = {"a": [0, 1, 2], "b": [4, 5], "c": [0]}
    for lanes in range(1, 13):
        chosen = share_lanes(slots, lanes)
        lanes_of_rank(0, num_slots(chosen), lanes)
        for larger in range(num_slots(chosen) + 1, 7):
            with pytest.raises(ConfigError):
                lanes_of_rank(0, larger, lanes)
    assert share_lanes(slots, 4) == {"a": [0, 1, 2], "b": [4]}
    assert share_lanes({}, 4) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node1 slots=1\nnode1 slots=2\n", "line 2"),
        ("node1\n", "expected a new host as in 'node1 slots=8'"),
        ("node1 slots=0\n", "line 1"),
        ("# none\n", "names no host"),
        ("n\xf6de slots=1\n", "hostfile: expected UTF-8, got .*0xf6"),
    ],
)
def test_a_hostfile_that_cannot_be_used_is_refused_by_line(tmp_path, text, message):
    (tmp_path / "hostfile").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        read_hostfile(tmp_path / "hostfile")


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"include": "node9"}, "unknown host 'node9'. The hostfile has node1, node2, 10.0.0.3"),
        ({"exclude": "node2:5"}, r"node2 has the slots \[0, 1\], got '5'"),
        ({"include": "node1", "exclude": "node2"}, "cannot be combined"),
        ({"exclude": "node1@node2@10.0.0.3"}, "leaves no slot"),
    ],
)
def test_filters_that_cannot_be_met_are_refused_by_name(hostfile, filters, message):
    with pytest.raises(ConfigError, match=message):
        filter_slots(read_hostfile(hostfile), **filters)
