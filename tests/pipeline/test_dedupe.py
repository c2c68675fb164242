"""Duplicates: the first row with a key stays, in the order of the inputs."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.dedupe import keep_first


@given(st.lists(st.lists(st.one_of(st.none(), st.text("ABC", min_size=1, max_size=2)), max_size=8), max_size=6))
def test_exactly_the_first_row_of_every_key_is_kept(splits):
    seen = set()
    for split, mask in zip(splits, keep_first(splits), strict=True):
        assert mask.dtype == bool
        assert len(mask) == len(split)
        for key, kept in zip(split, mask):
            assert kept == (key is not None and key not in seen)
            seen.add(key)
