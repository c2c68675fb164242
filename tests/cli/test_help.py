"""The help of every command: every key with type, default and docstring, examples that work, nothing heavy imported."""

import dataclasses
import importlib
import importlib.metadata
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from molstream.cli.help import keys_of
from molstream.cli.inspect import InspectConfig
from molstream.cli.main import COMMANDS, main
from molstream.cli.verify import VerifyConfig
from molstream.compose import compose, config_groups
from molstream.config import field_types, load, section
from molstream.pipeline.config import AppendConfig, DryRunConfig, PreprocessConfig
from molstream.training.config import PretrainConfig
from molstream.training.evaluation.config import (
    CostConfig,
    DiagnoseConfig,
    EvaluateGeneratedConfig,
    EvaluateVectorsConfig,
)
from molstream.training.inference.config import EmbedConfig, ExportConfig, GenerateConfig
from molstream.training.launch.config import SuperviseConfig
from molstream.training.metrics.config import SyncConfig
from molstream.training.report.config import ReportConfig
from tests.support.processes import ENVIRONMENT

SCHEMAS: dict[str, type] = {
    "preprocess": PreprocessConfig,
    "append": AppendConfig,
    "verify": VerifyConfig,
    "inspect": InspectConfig,
    "pretrain": PretrainConfig,
    "supervise": SuperviseConfig,
    "diagnose": DiagnoseConfig,
    "report": ReportConfig,
    "sync": SyncConfig,
    "export": ExportConfig,
    "embed": EmbedConfig,
    "generate conformers": GenerateConfig,
    "generate bonds": GenerateConfig,
    "evaluate vectors": EvaluateVectorsConfig,
    "evaluate conformers": EvaluateGeneratedConfig,
    "evaluate bonds": EvaluateGeneratedConfig,
    "doctor": CostConfig,
}
"""Every command, with the choice that some have, and its configuration."""

SECTIONS = [
    (command, name)
    for command, schema in SCHEMAS.items()
    for name, kind in field_types(schema).items()
    if section(kind) is not None
]
GROUPS = [(command, group) for command in SCHEMAS for group in config_groups(command)]


class Row(NamedTuple):
    """A key in a help text."""

    text: str
    facts: str


def rows(text: str) -> dict[str, Row]:
    """The keys that a help text lists."""
    found = re.findall(r"^  ([a-z_][\w.]*)\s+(\S[^\n]*(?:\n {10,}\S[^\n]*)*)", text, re.MULTILINE)
    whole = {name: " ".join(row.split()) for name, row in found}
    split = {name: re.fullmatch(r"(.*?)\s*\[([^\[\]]*(?:\[[^\]]*\])?[^\[\]]*)\]", row) for name, row in whole.items()}
    return {name: Row(match[1], match[2]) for name, match in split.items() if match}


def help_of(capsys: pytest.CaptureFixture[str], words: str) -> str:
    """What a command line with --help prints."""
    assert main(shlex.split(words)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 110 or "examples" in out
    return out


def leaves(schema: type, prefix: str = "", without: frozenset[str] = frozenset()) -> list[str]:
    """The dotted keys that are no sections."""
    keys = [key.name for key in keys_of(schema, prefix)]
    for name, kind in field_types(schema).items():
        if (inner := section(kind)) is not None and name not in without:
            keys += leaves(inner, f"{prefix}{name}.")
    return keys


def assert_described(found: dict[str, Row], keys: list[str]) -> None:
    """Every key is there, with a docstring, a type, and a default or that it is required."""
    assert not set(keys) - found.keys()
    for key in keys:
        row = found[key]
        assert len(row.text.split()) >= 2, (key, row)
        assert re.fullmatch(r".*\S, (required|default \S.*)", row.facts), (key, row)
        assert not re.match(r"value, default", row.facts), (key, row)


def test_every_command_of_the_table_is_looked_at():
    assert list(dict.fromkeys(name.split()[0] for name in SCHEMAS)) == list(COMMANDS)


@pytest.mark.parametrize("command", SCHEMAS)
def test_help_lists_every_key_with_type_default_and_docstring(capsys, command):
    schema = SCHEMAS[command]
    text = help_of(capsys, f"{command} --help")
    assert text.startswith(f"usage: molstream {command}")
    assert help_of(capsys, f"{command} -h") == text
    grouped = frozenset(group.partition("/")[0] for group in config_groups(command))
    assert_described(rows(text), leaves(schema, without=grouped))
    for group in config_groups(command):
        assert f"config group {group}=" in text
        assert group.partition("/")[0] not in field_types(schema) or f"--help {group.partition('/')[0]}" in text
    for option in ("-h, --help [SECTION]", "--cfg", "--version", "examples"):
        assert option in text


@pytest.mark.parametrize("columns", [80, 110])
@pytest.mark.parametrize(("command", "name"), SECTIONS)
def test_help_of_a_section_lists_its_keys(capsys, monkeypatch, command, name, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    inner = section(field_types(SCHEMAS[command])[name])
    assert inner is not None
    text = help_of(capsys, f"{command} --help {name}")
    assert_described(rows(text), leaves(inner, f"{name}."))
    assert " ".join((inner.__doc__ or "").split("\n\n")[0].split()) in " ".join(text.split())


@pytest.mark.parametrize(("command", "group"), GROUPS)
def test_help_of_a_config_group_lists_its_options(capsys, command, group):
    text = help_of(capsys, f"{command} --help {group}")
    for option in config_groups(command)[group].options:
        assert re.search(rf"^  {option} +\w", text, re.MULTILINE), option


@pytest.mark.parametrize(("command", "key"), [("preprocess", "limit"), ("preprocess", "format"), ("verify", "dataset")])
def test_help_of_a_key_is_that_of_the_whole_help(capsys, command, key):
    whole, one = help_of(capsys, f"{command} --help"), help_of(capsys, f"{command} --help {key}")
    assert rows(one) == {key: rows(whole)[key]}


def test_ranges_and_choices_are_said(capsys):
    found = rows(help_of(capsys, "pretrain --help"))
    assert found["optim.lr"].facts == "number > 0, default 0.0003"
    assert found["optim.beta1"].facts == "number >= 0 < 1, default 0.9"
    assert found["optim.name"].facts == "adamw | muon, default adamw"
    assert found["stop_at"].facts == "integer >= 1 or null, default null"
    assert found["run_dir"].facts == "text, required"


@pytest.mark.parametrize("name", ["objective", "objective.moleculesde.bond_sde"])
def test_a_section_shows_the_defaults_that_its_owner_gives(capsys, name):
    found = rows(help_of(capsys, f"pretrain --help {name}"))
    assert found["objective.moleculesde.bond_sde.kind"].facts == "ve | vp | subvp, default vp"
    assert found["objective.moleculesde.bond_sde.minimum"].facts == "number >= 0, default 0.1"
    assert not [key for key, row in found.items() if row.facts.endswith("required")]


# --- examples, --cfg, --version ---------------------------------------------------------------------------------------


def examples(command: str) -> list[list[str]]:
    """The words behind the command's name of the examples that its help shows."""
    name, _, choice = command.partition(" ")
    shown = importlib.import_module(COMMANDS[name].module).EXAMPLES
    found = []
    for example in shown[choice] if isinstance(shown, dict) else shown:
        words = shlex.split(example)
        if words[0] == "deepspeed":
            words = words[words.index("training/pretrain.py") + 1 :]
        else:
            assert words[: 1 + len(command.split())] == ["molstream", *command.split()]
            words = words[1 + len(command.split()) :]
        found.append(words)
    return found


EXAMPLES = [(command, tuple(words)) for command in SCHEMAS for words in examples(command)]


@pytest.mark.parametrize(("command", "words"), EXAMPLES, ids=lambda each: each if isinstance(each, str) else None)
def test_examples_give_a_configuration_that_cfg_prints_and_load_reads(capsys, command, words):
    assert main([*command.split(), "--cfg", *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    schema = DryRunConfig if "--dry-run" in words else SCHEMAS[command]
    loaded = load(schema, yaml.safe_load(out))
    positional = {"verify": "dataset", "inspect": "path"}.get(command)
    own = words[: words.index("deepspeed")] if command == "supervise" else words
    settings = [f"{positional}={word}" if positional and "=" not in word else word for word in own]
    if command == "report":
        settings = [f"run_dir=[{','.join(w for w in words if '=' not in w)}]", *(w for w in words if "=" in w)]
    settings = [word for word in settings if word != "--dry-run"]
    assert loaded == compose(command, schema, settings)
    assert dataclasses.is_dataclass(loaded)


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_command_prints_the_version(capsys, command):
    assert main([*command.split(), "--version"]) == 0
    assert capsys.readouterr().out == f"molstream {importlib.metadata.version('molstream')}\n"


def test_molstream_itself_prints_help_and_version(capsys):
    for words in (["-h"], ["--help"], ["help"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        for name, command in COMMANDS.items():
            assert re.search(rf"^  {name} +{re.escape(command.summary)}$", out, re.MULTILINE)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("molstream ")
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: molstream")


def test_help_before_the_command_is_the_same(capsys):
    assert help_of(capsys, "help pretrain") == help_of(capsys, "pretrain --help")
    assert help_of(capsys, "help pretrain optim") == help_of(capsys, "pretrain --help optim")
    assert help_of(capsys, "help generate bonds") == help_of(capsys, "generate bonds --help")
    text = help_of(capsys, "generate --help")
    assert "conformers" in text
    assert "bonds" in text


@pytest.mark.parametrize(
    ("word", "meant"), [("pretain", "pretrain"), ("reprot", "report"), ("embedd", "embed"), ("eval", "evaluate")]
)
def test_a_mistyped_command_is_answered_with_the_nearest_one(capsys, word, meant):
    assert main([word]) == 2
    assert f"Did you mean '{meant}'?" in capsys.readouterr().err


# --- what makes it quick ----------------------------------------------------------------------------------------------


def imported(words: list[list[str]], heavy: tuple[str, ...], folder: Path) -> list[str]:
    """What of ``heavy`` a process imports that runs some command lines, each with the line that did it."""
    code = (
        "import contextlib, io, sys\n"
        "from molstream.cli.main import main\n"
        f"for words in {words!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "        main(words)\n"
        f"    for name in {heavy!r}:\n"
        "        if name in sys.modules:\n"
        "            print(name, 'is imported by', *words)\n"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_the_list_of_commands_imports_no_package(tmp_path):
    heavy = ("torch", "numpy", "rdkit", "hydra", "omegaconf", "pyarrow", "ray", "pydantic", "yaml", "rich")
    assert imported([["-h"], ["help"], ["pretain"], []], heavy, tmp_path) == []


def test_help_and_typos_of_every_command_import_nothing_that_computes(tmp_path):
    heavy = ("torch", "deepspeed", "ray", "rdkit", "sklearn", "pyarrow", "matplotlib")
    words = [[*command.split(), word] for command in SCHEMAS for word in ("nosuchkey=1", "--help", "--version")]
    assert imported(words, heavy, tmp_path) == []
