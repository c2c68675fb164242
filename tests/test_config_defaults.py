"""One default per key: the dataclasses have it, and YAML holds only what differs from it."""

import pytest

from molstream.compose import compose, config_groups
from molstream.config import CONFIG_DIR, flatten, load, read_yaml, tree_of
from molstream.pipeline.config import PreprocessConfig
from molstream.training.config import PretrainConfig
from molstream.training.models.config import ModelConfig

PRESETS = sorted(path.stem for path in (CONFIG_DIR / "model").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_name_only_what_differs(preset):
    given = read_yaml(CONFIG_DIR / "model" / f"{preset}.yaml")
    default = dict(flatten(tree_of(load(ModelConfig, {name: {} for name in given}))))
    repeated = [key for key, value in flatten(given) if default[key] == value]
    assert not repeated, f"model/{preset}.yaml repeats the defaults of {', '.join(repeated)}"


@pytest.mark.parametrize(
    ("name", "schema", "required"),
    [
        ("pretrain", PretrainConfig, {"run_dir": "runs/mine"}),
        ("preprocess", PreprocessConfig, {"input": "a.csv", "output": "b"}),
    ],
)
def test_a_command_has_the_defaults_of_its_dataclass(name, schema, required):
    """Apart from what is chosen: networks and objectives, which are none in the dataclass."""
    composed = dict(flatten(tree_of(compose(name, schema, [f"{k}={v}" for k, v in required.items()]))))
    plain = dict(flatten(tree_of(schema(**required))))
    assert plain.keys() <= composed.keys()
    assert {key: composed[key] for key in plain} == plain


@pytest.mark.parametrize("name", ["pretrain", "preprocess", "doctor"])
def test_defaults_of_groups_are_options_of_theirs(name):
    for group in config_groups(name).values():
        chosen = group.default if isinstance(group.default, list) else [group.default] if group.default else []
        assert set(chosen) <= set(group.options)
