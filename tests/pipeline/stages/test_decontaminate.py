"""Membership in benchmark sets against Python's own sets."""

from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.pipeline.stages.decontaminate import Benchmarks

identity = st.one_of(st.sampled_from(["", "A", "B", "C"]), st.text(max_size=3))


@settings(max_examples=100, deadline=None)
@given(sets=st.dictionaries(st.sampled_from("xyzuv"), st.lists(identity, max_size=6)), asked=st.lists(identity))
def test_every_set_that_holds_an_identity_is_named_and_no_other(sets, asked, tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmarks") / "keys.npy"
    Benchmarks.of(sets).save(path)
    found = Benchmarks.load(path, tuple(sets)).sets(asked)
    assert found == [tuple(name for name, members in sets.items() if i and i in members) for i in asked]
