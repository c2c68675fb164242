"""What configs/ shows as a default, and what a dataclass has where no YAML is read, are one value."""

import pytest
from omegaconf import OmegaConf

from molstream.config import compose
from molstream.pipeline.config import PreprocessConfig
from molstream.training.config import PretrainConfig
from molstream.training.data.config import DataConfig

COMPOSED = {
    PreprocessConfig: lambda: compose("preprocess", PreprocessConfig, ["input=a.csv", "output=b"]),
    DataConfig: lambda: compose("pretrain", PretrainConfig, ["run_dir=a"]).data,
}


@pytest.mark.parametrize("schema", COMPOSED, ids=lambda schema: schema.__name__)
def test_yaml_and_dataclass_agree(schema):
    composed, plain = OmegaConf.structured(COMPOSED[schema]()), OmegaConf.structured(schema)
    given = [key for key in plain if not OmegaConf.is_missing(plain, key)]
    assert {key: composed[key] for key in given} == {key: plain[key] for key in given}
