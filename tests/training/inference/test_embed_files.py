"""``molstream embed``: a row for every record, with the columns that the input has, in each kind of file."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from molstream.cli.main import main
from molstream.pipeline.readers import SOURCES
from molstream.pipeline.readers.prepare import open_sources
from molstream.pipeline.readers.split import ReadConfig, cut, read_columns
from molstream.preprocessing.featurize import featurize
from molstream.training.inference.embedder import MoleculeEmbedder
from tests.support.datasets import REPOSITORY, molecules, write_csv
from tests.support.source_files import FORMATS, SMILES, VALUES

TABLE = 'id,smiles,label,row,"a note"\n007,OCC,active,5,"x, ""y"""\n8,XX,,6,\n9\n10,c1ccccc1O,inactive,7,z\n'
FAILED = [False, True, True, False]


@pytest.fixture
def embed(export, tmp_path):
    """Run the command on a file or text with a 2D encoder."""

    def run(given: str, output: str, *words: str, code: int = 0) -> Path:
        line = ["embed", f"export={export}", "representation=2d", f"input={given}", f"output={tmp_path / output}"]
        assert main([*line, *words]) == code
        return tmp_path / output

    return run


@pytest.fixture
def table(tmp_path):
    (tmp_path / "in.csv").write_text(TABLE)
    return str(tmp_path / "in.csv")


def test_the_columns_of_the_input_stand_beside_the_identity_and_the_vector(embed, export, table, capfd):
    found = pq.read_table(embed(table, "v.parquet"))
    own = ["source", "row", "canonical_smiles", "inchikey", "failure", "embedding"]
    assert found.column_names == ["id", "smiles", "label", "input_row", "a note", *own]
    rows = found.to_pylist()
    assert [row["id"] for row in rows] == ["007", "8", None, "10"]
    assert [row["smiles"] for row in rows] == ["OCC", "XX", None, "c1ccccc1O"]
    assert [row["label"] for row in rows] == ["active", "", None, "inactive"]
    assert [row["input_row"] for row in rows] == ["5", "6", None, "7"]
    assert rows[0]["a note"] == 'x, "y"'
    assert [row["row"] for row in rows] == [0, 1, 2, 3]
    assert [row["canonical_smiles"] for row in rows] == ["CCO", None, None, "Oc1ccccc1"]
    assert [row["inchikey"] for row in rows] == [featurize("CCO").key, None, None, featurize("Oc1ccccc1").key]
    assert [row["failure"] is not None for row in rows] == FAILED
    assert [row["embedding"] is None for row in rows] == FAILED
    expected = MoleculeEmbedder(export, "2d").transform(["CCO"])[0]
    np.testing.assert_allclose(rows[0]["embedding"], expected, rtol=1e-4, atol=1e-5)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("v.parquet: 2 of 4 molecules embedded, 2 failed\n") == 1


def test_every_kind_of_file_has_the_same_vectors_and_reasons(embed, table, tmp_path):
    first = pq.read_table(embed(table, "v.parquet")).to_pandas()
    vectors = np.load(embed(table, "v.npy"))
    assert vectors.dtype == np.float32
    assert list(np.isnan(vectors).all(axis=1)) == FAILED
    np.testing.assert_array_equal(vectors[0], first["embedding"][0])
    failures = pq.read_table(tmp_path / "v.failures.parquet").to_pylist()
    assert [(row["row"], row["failure"]) for row in failures] == list(first["failure"].dropna().items())
    frame = pd.read_csv(embed(table, "v.csv"), dtype={"id": str}, keep_default_na=False)
    assert list(frame["id"]) == ["007", "8", "", "10"]
    assert list(frame["failure"]) == list(first["failure"].fillna(""))
    numbers = frame.filter(like="molecule_2d_").apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
    np.testing.assert_array_equal(numbers, vectors)
    write_csv(tmp_path / "good.csv", ["CCO"])
    embed(str(tmp_path / "good.csv"), "v.npy")
    assert not (tmp_path / "v.failures.parquet").exists()


def test_named_targets_are_numbers_and_a_bad_one_is_a_failure(embed, tmp_path):
    (tmp_path / "in.csv").write_text("smiles,y\nC,1.5\nCC,\nCCO,inf\n")
    rows = pq.read_table(embed(str(tmp_path / "in.csv"), "v.parquet", "target_columns=[y]")).to_pylist()
    assert [row["y"] for row in rows] == [1.5, None, None]
    assert "bad_target" in rows[2]["failure"]


def test_inputs_of_several_kinds_share_their_columns(embed, tmp_path):
    (tmp_path / "a.csv").write_text("smiles,y\nC,1\n")
    pq.write_table(pa.table({"smiles": ["CC"], "y": [2.5], "tags": [[1, 2]]}), tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_text(json.dumps({"smiles": "CCC", "y": None, "more": {"a": 1}}) + "\n{\n")
    given = f"[{tmp_path / 'a.csv'},{tmp_path / 'b.parquet'},{tmp_path / 'c.jsonl'}]"
    rows = pq.read_table(embed(given, "v.parquet")).to_pylist()
    assert [row["source"] for row in rows] == ["a.csv", "b.parquet", "c.jsonl", "c.jsonl"]
    assert [row["y"] for row in rows] == ["1", "2.5", None, None]
    assert [row["tags"] for row in rows] == [None, "[1, 2]", None, None]
    assert [row["more"] for row in rows] == [None, None, '{"a": 1}', None]
    assert [row["canonical_smiles"] for row in rows] == ["C", "CC", "CCC", None]


@pytest.mark.parametrize("output", ["again.parquet", "again.csv"])
def test_what_was_embedded_can_be_embedded_again(embed, table, output):
    first = embed(table, "v.parquet")
    again = embed(str(first), output, "smiles_column=smiles")
    rows = pq.read_table(again).to_pylist() if output.endswith("parquet") else list(csv.DictReader(again.open()))
    assert [row["canonical_smiles"] or None for row in rows] == ["CCO", None, None, "Oc1ccccc1"]
    assert json.loads(rows[0]["input_embedding"]) == pq.read_table(first)["embedding"][0].as_py()


@pytest.mark.parametrize("rows", [2, 3, 100])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_the_columns_of_its_records(tmp_path, format, rows):
    (tmp_path / f"m.{format}").write_bytes(FORMATS[format])
    config = ReadConfig(smiles_column=None if format in ("smi", "sdf", "jsonl") else "smiles")
    splits = cut(open_sources(str(tmp_path / f"m.{format}"), tmp_path, config), rows)
    found = [row for split in splits for row in read_columns(split).to_pylist()]
    assert len(found) == len(SMILES)
    if format != "sdf":
        assert [row["smiles"] for row in found] == SMILES
    if format == "smi":
        assert [row["name"] for row in found] == [f"name of {k}" for k in range(7)]
    elif format in ("csv", "tsv", "sdf"):
        assert [row["value"] for row in found] == VALUES
        assert {row["name"] for row in found} == {"x" if format == "sdf" else "n"}
    else:
        assert [row["value"] and float(row["value"]) for row in found[2:]] == [-2, 1000, 0, 7, 8]


def test_equal_names_of_columns_are_numbered(tmp_path):
    (tmp_path / "m.csv").write_text("p,smiles,p\n1,C,2\n")
    [split] = cut(open_sources(str(tmp_path / "m.csv"), tmp_path, ReadConfig()), 10)
    assert read_columns(split).to_pylist() == [{"p": "1", "smiles": "C", "p.1": "2"}]


def test_stdin_and_stdout_are_a_pipe(export):
    command = [sys.executable, "-m", "molstream", "embed", f"export={export}", "representation=2d", "format=smi"]
    result = subprocess.run(
        [*command, "input=-", "output=-"],
        input="CCO ethanol\rC1CC nothing\n",
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=120,
        check=True,
    )
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["smiles"], row["name"], row["canonical_smiles"]) for row in rows] == [
        ("CCO", "ethanol", "CCO"),
        ("C1CC", "nothing", ""),
    ]
    assert float(rows[0]["molecule_2d_0"]) != 0
    assert "unparsable" in rows[1]["failure"]
    assert "stdout: 1 of 2 molecules embedded, 1 failed" in result.stderr


READING = {
    "semicolon.csv": (b"smiles;y\nCCO;5\nCCN;6\n", ["delimiter=semicolon"]),
    "noheader.csv": (b"CCO,5\nCCN,6\n", ["header=false", "smiles_column=0"]),
    "renamed.dat": (b"CCO\tx\nCCN\ty\n", ["format=smi"]),
}


@pytest.mark.parametrize("name", READING)
def test_embed_and_generate_read_with_the_keys_that_errors_name(embed, small_run, tmp_path, name):
    content, words = READING[name]
    (tmp_path / name).write_bytes(content)
    rows = pq.read_table(embed(str(tmp_path / name), "v.parquet", *words)).to_pylist()
    assert [row["canonical_smiles"] for row in rows] == ["CCO", "CCN"]
    target = {"semicolon.csv": "y", "noheader.csv": "1"}.get(name)
    line = [f"run_dir={small_run}", f"input={tmp_path / name}", f"output={tmp_path / 'g.sdf'}", "sampler.num_steps=2"]
    line += [*words, *([f"target_columns={target}"] if target else [])]
    assert main(["generate", "conformers", *line]) == 0
    found = list(Chem.SDMolSupplier(str(tmp_path / "g.sdf")))
    assert [mol.GetProp("_Name") for mol in found] == ["CCO", "CCN"]
    if target:
        assert [float(mol.GetProp(target)) for mol in found] == [5, 6]


PATHS = [
    "molecules (1).csv",
    "a=b.csv",
    "café.csv",
    "a, b.csv",
    "#1.csv",
    'it\'s "quoted".csv',
    "a&b;c.csv",
    "[x]{y}.csv",
]


@pytest.mark.parametrize("name", PATHS)
def test_a_path_is_taken_as_it_is(embed, small_run, tmp_path, name):
    source = write_csv(tmp_path / name, molecules()[:2])
    vectors = embed(str(source), f"v {name.removesuffix('.csv')}.parquet")
    assert {row["source"] for row in pq.read_table(vectors).to_pylist()} == {name}
    line = [
        f"run_dir={small_run}",
        f"input={source}",
        f"output={tmp_path / name}.sdf",
        "sampler.num_steps=2",
        "limit=1",
    ]
    assert main(["generate", "conformers", *line]) == 0
    assert (tmp_path / f"{name}.sdf").stat().st_size > 0


def test_every_format_tells_its_columns():
    assert {name for name, form in SOURCES.items() if form.columns.__name__ == "no_columns"} == set()


def test_evaluate_reads_other_tables_and_sd_files(export, tmp_path):
    smiles = molecules()
    (tmp_path / "a=b, (1).csv").write_text("".join(f"{s};{k / 10}\n" for k, s in enumerate(smiles)))
    words = ["delimiter=semicolon", "header=false", "smiles_column=0", "target=1"]
    with Chem.SDWriter(str(tmp_path / "m.sdf")) as writer:
        for k, text in enumerate(smiles):
            mol = Chem.MolFromSmiles(text)
            mol.SetProp("y", str(k / 10))
            writer.write(mol)
    scores = []
    for given, keys in ((tmp_path / "a=b, (1).csv", words), (tmp_path / "m.sdf", ["target=y"])):
        output = tmp_path / "eval.json"
        line = [
            "evaluate",
            "vectors",
            f"export={export}",
            "folds=random",
            "untrained_seeds=1",
            "num_cpus=1",
            f"input={given}",
            f"output={output}",
            *keys,
        ]
        assert main(line) == 0
        result = json.loads(output.read_text())
        assert result["tasks"][0]["source"] == given.name
        assert result["tasks"][0]["molecules"] == len(smiles)
        scores.append([score["by_fold"]["r2"] for score in result["foldings"][0]["tasks"][0]["scores"]])
    assert np.array(scores[0]) == pytest.approx(np.array(scores[1]), abs=1e-6)
