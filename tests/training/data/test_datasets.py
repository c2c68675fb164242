"""What an objective needs is looked for in the dataset before anything starts."""

import re

import pytest

from molstream.errors import ConfigError
from molstream.pipeline.order.mixture import Mixture
from molstream.pipeline.shards.reader import ShardDataset
from molstream.training.data.datasets import require_fields
from tests.support.samples import random_samples, write_dataset


@pytest.mark.parametrize("name", ["positions", "targets", "descriptors"])
def test_a_field_that_the_dataset_does_not_have_is_named(tmp_path, name):
    bare = write_dataset(tmp_path / "bare", [random_samples(0, 9, 0)], target_names=())
    full = write_dataset(tmp_path / "full", [random_samples(0, 9, 2, 3)], conformer_status={"etkdg": 5, "none": 4})
    needed = frozenset({"atom_features", name})
    require_fields(needed, Mixture([ShardDataset(full)]))
    with pytest.raises(
        ConfigError, match=rf"the objective needs {name}, .* 9 molecules of {re.escape(str(bare))} do not"
    ):
        require_fields(needed, Mixture([ShardDataset(bare)]))
