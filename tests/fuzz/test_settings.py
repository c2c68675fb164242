"""Command lines with random values for any key: one message, or a result that is right."""

from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest

from molstream.cli.main import main
from molstream.config import known_keys
from molstream.pipeline.config import PreprocessConfig
from molstream.training.config import PretrainConfig
from molstream.training.inference.config import EmbedConfig, ExportConfig, GenerateConfig
from tests.fuzz.cases import case, numbered
from tests.fuzz.damage import AWKWARD, text_damaged
from tests.support.command_lines import FAILED, TINY, USAGE, Places, assert_one_message

COMMANDS = {
    "embed": (EmbedConfig, "export=EXPORT input=CSV output=HERE/v.parquet"),
    "export": (ExportConfig, "run_dir=RUN output=HERE/export"),
    "generate conformers": (GenerateConfig, "run_dir=RUN input=CSV output=HERE/g.sdf limit=1 sampler.num_steps=2"),
    "preprocess": (PreprocessConfig, "input=CSV output=HERE/dataset"),
    "pretrain": (PretrainConfig, f"data.path=DATASET run_dir=HERE/run {TINY}"),
}
"""Commands with their schema and a line that is right; with --cfg where the work itself would take seconds."""

COMPOSED = ("preprocess", "pretrain")
EXPENSIVE = ("steps", "repeats", "num_steps", "batch_size", "num_cpus")
"""Keys of which a large value is honest work."""


def as_text(value: object) -> str:
    """A value as a user types it."""
    return str(value).replace("None", "null").replace("'", '"') if not isinstance(value, str) else value


@numbered(200)
def test_a_random_setting_gives_one_message_or_a_result(numbers, places: Places, capfd, monkeypatch):
    # Outputs may get any name, relative to this folder.
    monkeypatch.chdir(places.HERE)
    for number in numbers:
        with case("settings", number) as random:
            words, setting = line_of(random, places)
            if "\x00" in setting or not setting.isprintable():
                continue
            code = main(words)
            out, err = capfd.readouterr()
            assert "Traceback" not in err, (words, err)
            assert code in (0, FAILED, USAGE), (words, err)
            if code:
                assert_one_message(code, out, err, code, ())
            elif words[0] == "embed":
                table = pq.read_table(places.HERE / "v.parquet") if (places.HERE / "v.parquet").exists() else None
                if table is not None:
                    vectors = [v for v in table["embedding"].to_pylist() if v is not None]
                    assert len(vectors) == table["failure"].null_count > 0
                    assert np.isfinite(np.array(vectors)).all()


def line_of(random: Random, places: Places) -> tuple[list[str], str]:
    """A command line that is right but for one setting, and that setting."""
    command = random.choice(list(COMMANDS))
    schema, line = COMMANDS[command]
    key = random.choice(list(known_keys(schema)))
    if random.random() < 0.2:
        key = text_damaged(key, random)
    setting = f"{key}={as_text(random.choice(AWKWARD))}"
    if key.rpartition(".")[2] in EXPENSIVE and "0" in setting and "=-" not in setting:
        setting = f"{key}=0"
    flags = ["--cfg"] if command in COMPOSED else []
    return [*command.split(), *places.words(line), setting, *flags], setting


@pytest.mark.parametrize("command", COMMANDS)
def test_the_lines_are_right_without_a_random_setting(command, places, capfd):
    _, line = COMMANDS[command]
    flags = ["--cfg"] if command in COMPOSED else []
    assert main([*command.split(), *places.words(line), *flags]) == 0
    capfd.readouterr()
