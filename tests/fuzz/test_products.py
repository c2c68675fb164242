"""Damaged datasets, runs, checkpoints and exports: refused in one message, or as good as undamaged."""

import shutil
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest

from molstream.cli.main import main
from tests.fuzz.cases import case, numbered
from tests.fuzz.damage import damaged, flipped, json_damaged
from tests.support.command_lines import FAILED, USAGE, Places, assert_one_message

JSON = (".json",)


def hurt(folder: Path, random: Random) -> Path:
    """Damage one file of a folder; returns it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    file = random.choice(files)
    content = file.read_bytes()
    is_json = file.suffix in JSON or file.name == "COMPLETE"
    file.write_bytes(json_damaged(content, random) if is_json and random.random() < 0.6 else damaged(content, random))
    return file


def assert_done_or_refused(code: int, out: str, err: str) -> bool:
    """The command is done, or has said in one message why not; returns whether it is done."""
    if code == 0:
        assert "Traceback" not in err
        return True
    assert code in (FAILED, USAGE), (code, err)
    assert_one_message(code, out, err, code, ())
    return False


@pytest.fixture(scope="module")
def vectors(export: Path, csv: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return embedded(export, csv, tmp_path_factory.mktemp("vectors") / "v.parquet")


def embedded(export: Path, csv: Path, output: Path) -> np.ndarray:
    assert main(["embed", f"export={export}", f"input={csv}", f"output={output}"]) == 0
    return np.array(pq.read_table(output)["embedding"].to_pylist())


@numbered(200)
def test_a_damaged_export_is_refused_or_gives_the_same_vectors(numbers, places: Places, capfd, vectors):
    for number in numbers:
        with case("exports", number) as random:
            folder, output = places.HERE / f"export{number}", places.HERE / f"{number}.parquet"
            shutil.copytree(places.EXPORT, folder)
            if random.random() < 0.5:
                weights = folder / "model.safetensors"
                weights.write_bytes(flipped(weights.read_bytes(), random))
                file = weights
            else:
                file = hurt(folder, random)
            code = main(["embed", f"export={folder}", f"input={places.CSV}", f"output={output}"])
            if assert_done_or_refused(code, *capfd.readouterr()):
                found = np.array(pq.read_table(output)["embedding"].to_pylist())
                np.testing.assert_array_equal(found, vectors, err_msg=str(file))
            else:
                assert not output.exists()
            shutil.rmtree(folder)


@numbered(60)
def test_a_damaged_dataset_is_refused_or_verified(numbers, places: Places, capfd):
    for number in numbers:
        with case("datasets", number) as random:
            folder = places.HERE / f"dataset{number}"
            shutil.copytree(places.DATASET, folder)
            file = hurt(folder, random)
            for command in ("inspect", "verify"):
                code = main([command, str(folder)])
                err = capfd.readouterr().err
                assert code in (0, FAILED, USAGE), (file, err)
                assert "Traceback" not in err, (file, err)
                if file.name.startswith("shard-") and command == "verify":
                    assert code == FAILED, file
                    assert file.name in err
            shutil.rmtree(folder)


@numbered(60)
def test_a_damaged_run_is_refused_or_exported_as_it_was(numbers, places: Places, capfd):
    shutil.rmtree(places.HERE / "whole", ignore_errors=True)
    assert main(["export", f"run_dir={places.RUN}", f"output={places.HERE / 'whole'}"]) == 0
    expected = (places.HERE / "whole" / "model.safetensors").read_bytes()
    earlier = expected_of(places, "step=3")
    capfd.readouterr()
    for number in numbers:
        with case("runs", number) as random:
            folder, output = places.HERE / f"run{number}", places.HERE / f"export{number}"
            shutil.copytree(places.RUN, folder)
            file = hurt(folder / random.choice(["", "checkpoints"]), random)
            code = main(["export", f"run_dir={folder}", f"output={output}"])
            if assert_done_or_refused(code, *capfd.readouterr()):
                found = (output / "model.safetensors").read_bytes()
                assert found in (expected, earlier), file
            for command in ("inspect", "report"):
                assert_done_or_refused(main([command, str(folder)]), *capfd.readouterr())
            shutil.rmtree(folder)


def expected_of(places: Places, step: str) -> bytes:
    assert main(["export", f"run_dir={places.RUN}", step, f"output={places.HERE / step}"]) == 0
    return (places.HERE / step / "model.safetensors").read_bytes()
