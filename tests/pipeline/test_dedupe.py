"""Duplicates against a plain loop over a set."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dedupe import keep_first

key = st.one_of(st.none(), st.sampled_from("ABCDEFGH"), st.text(max_size=3))


@settings(max_examples=150, deadline=None)
@given(splits=st.lists(st.lists(key, max_size=8), max_size=6))
def test_the_first_of_each_key_is_kept_in_input_order(splits):
    first: dict[str, tuple[int, int]] = {}
    for s, split in enumerate(splits):
        for k, key in enumerate(split):
            if key is not None:
                first.setdefault(key, (s, k))
    kept = set(first.values())
    expected = [[(s, k) in kept for k in range(len(split))] for s, split in enumerate(splits)]
    found = keep_first(splits)
    assert [mask.tolist() for mask in found] == expected
    assert all(mask.dtype == bool for mask in found)
