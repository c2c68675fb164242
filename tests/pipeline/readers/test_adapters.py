"""Adapters: the molecules, geometry and targets of well-known data sets, in the units and order of their sources."""

import gzip
import json
from pathlib import Path

import msgpack
import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from molstream.errors import ConfigError, DataError
from molstream.pipeline.readers.datasets import ADAPTERS, pcqm4mv2
from molstream.pipeline.readers.datasets.moleculenet import TASKS, benchmark_file
from molstream.pipeline.readers.prepare import open_sources
from molstream.pipeline.readers.split import ReadConfig, cut, read_split, target_names
from molstream.preprocessing.fields import RawMolecule

SMILES = ["CCO", "c1ccccc1", "C", "C/C=C/C", "N"]


def read(file: Path, work: Path, rows: int = 1000, **options):
    """Records of a file, and the names of their targets."""
    config = ReadConfig(**options)
    work.mkdir(exist_ok=True)
    sources = open_sources([str(file)], work, config)
    splits = cut(sources, rows)
    return [record for split in splits for record in read_split(split)], target_names(sources)


def entry(smiles: str, title: str = "") -> str:
    """An SDF entry with hydrogens and coordinates."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    mol.SetProp("_Name", title)
    return Chem.MolToMolBlock(mol) + "$$$$\n"


def geometries(records) -> list[dict]:
    """What the texts of geometry records say."""
    assert {r.format for r in records} == {"geometry"}
    return [json.loads(r.text) for r in records]


# --- SD files joined to tables ----------------------------------------------------------------------------------------


def write_qm9(folder: Path, mol_ids=None, rows=None) -> Path:
    """gdb9.sdf and its table in their layout."""
    folder.mkdir(exist_ok=True)
    ids = [f"gdb_{k + 1}" for k in range(len(SMILES))]
    (folder / "gdb9.sdf").write_text("".join(map(entry, SMILES, ids)))
    lines = [f"{name},{k + 0.5},{-k}\n" for k, name in enumerate(mol_ids or ids)]
    (folder / "gdb9.sdf.csv").write_text("mol_id,A,gap\n" + "".join(lines[:rows]))
    return folder / "gdb9.sdf"


@pytest.mark.parametrize("rows", [1, 2, 99])
def test_qm9_is_joined_row_by_row(tmp_path, rows):
    records, names = read(write_qm9(tmp_path / "raw"), tmp_path / "work", rows, format="qm9")
    assert names == ("A", "gap")
    assert [r.targets for r in records] == [(k + 0.5, -k) for k in range(5)]
    assert [Chem.MolToSmiles(Chem.MolFromMolBlock(r.text)) for r in records] == [Chem.CanonSmiles(s) for s in SMILES]
    assert all(Chem.MolFromMolBlock(r.text).GetConformer().Is3D() for r in records)
    records, names = read(tmp_path / "raw", tmp_path / "work", rows, format="qm9", target_columns=["gap"])
    assert names == ("gap",)
    assert [r.targets for r in records] == [(-k,) for k in range(5)]


def test_qm9_that_does_not_belong_together_is_an_error(tmp_path):
    swapped = [f"gdb_{k}" for k in (1, 3, 2, 4, 5)]
    with pytest.raises(DataError, match=r"gdb9.sdf: entry 1 is 'gdb_2', but row 1 of its table is 'gdb_3'"):
        read(write_qm9(tmp_path / "a", swapped), tmp_path / "work", format="qm9")
    with pytest.raises(DataError, match=r"it has 5 entries, but its table 4 rows.*format=sdf"):
        read(write_qm9(tmp_path / "b", rows=4), tmp_path / "work", format="qm9")
    file = write_qm9(tmp_path / "c")
    with file.with_suffix(".sdf.csv").open("a") as table:
        table.write("gdb_6,1,1\n")
    with pytest.raises(DataError, match=r"it has 5 entries, but its table 6 rows"):
        read(file, tmp_path / "work", format="qm9")
    assert list((tmp_path / "work").iterdir()) == []
    file.with_suffix(".sdf.csv").unlink()
    with pytest.raises(DataError, match=r"joins it to a table that is not there: .*gdb9.sdf.csv or .*gdb9.sdf.csv.gz"):
        read(file, tmp_path / "work", format="qm9")


def test_the_joined_table_belongs_to_the_record_of_the_source(tmp_path):
    file = write_qm9(tmp_path / "raw")
    config = ReadConfig(format="qm9")
    records = []
    for _ in range(2):
        (source,) = open_sources([str(file)], tmp_path, config)
        records.append(source.record())
        table = file.with_suffix(".sdf.csv")
        table.write_text(table.read_text().replace("0.5", "0.7"))
    assert records[0]["name"] == "gdb9.sdf"
    assert records[0]["sha256"] == records[1]["sha256"]
    assert records[0]["joined"] != records[1]["joined"]
    assert next(read_split(cut([source], 9)[0])).targets[0] == 0.7


def test_the_real_sample_of_qm9_is_joined_in_order_and_only_where_that_is_right(shared_data, tmp_path):
    folder = shared_data / "geom3d" / "qm9"
    with pytest.raises(DataError, match=r"it has 1000 entries, but its table 991 rows"):
        read(folder / "gdb1k.sdf.gz", tmp_path / "work", format="qm9")
    # The first entry without a row is number 198.
    entries = gzip.decompress((folder / "gdb1k.sdf.gz").read_bytes()).split(b"$$$$\n")[:198]
    rows = gzip.decompress((folder / "gdb1k.sdf.csv.gz").read_bytes()).splitlines()[:199]
    (tmp_path / "m.sdf.gz").write_bytes(gzip.compress(b"".join(e + b"$$$$\n" for e in entries)))
    (tmp_path / "m.sdf.csv").write_bytes(b"\n".join(rows))
    records, names = read(tmp_path / "m.sdf.gz", tmp_path / "work", format="qm9")
    assert names == ("atomization_energy",)
    atoms = [Chem.MolFromMolBlock(r.text, removeHs=False, sanitize=False).GetNumAtoms() for r in records]
    assert np.corrcoef(atoms, [r.targets[0] for r in records])[0, 1] < -0.9


@pytest.mark.parametrize("place", ["data.csv", "raw/data.csv.gz"])
def test_pcqm4mv2_is_joined_to_its_table(tmp_path, monkeypatch, place):
    file = tmp_path / "pcqm4m-v2-train.sdf"
    file.write_text("".join(map(entry, SMILES)))
    table = tmp_path / place
    table.parent.mkdir(exist_ok=True)

    def write(rows: int) -> None:
        text = "idx,smiles,homolumogap\n" + "".join(f"{k},C,{k}.25\n" for k in range(rows))
        table.write_bytes(gzip.compress(text.encode()) if table.suffix == ".gz" else text.encode())

    write(5)
    records, names = read(file, tmp_path / "work", format="pcqm4mv2")
    assert names == ("homolumogap",)
    assert [r.targets for r in records] == [(k + 0.25,) for k in range(5)]
    assert {r.format for r in records} == {"molblock"}
    assert read(tmp_path, tmp_path / "work", format="pcqm4mv2")[0] == records
    write(6)
    with pytest.raises(DataError, match="it has 5 entries, but its table 6 rows"):
        read(file, tmp_path / "work", format="pcqm4mv2")
    # The table of the whole set goes on behind the training set, which alone has geometry.
    monkeypatch.setattr(pcqm4mv2, "NUM_TRAIN", 5)
    monkeypatch.setattr(pcqm4mv2, "NUM_ALL", 6)
    assert read(file, tmp_path / "work", format="pcqm4mv2")[0] == records


def test_the_sample_of_pcqm4mv2_keeps_its_coordinates(shared_data, tmp_path):
    file = shared_data / "geom3d" / "pcqm4mv2" / "pcqm4mv2-2k.csv.gz"
    records, names = read(file, tmp_path / "work", format="pcqm4mv2")
    assert (len(records), names) == (1999, ("homo",))
    assert 1 < records[0].targets[0] < 10
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    assert Chem.MolFromSmiles(records[0].text, parameters).GetConformer().Is3D()


# --- arrays -----------------------------------------------------------------------------------------------------------


def qm9_arrays() -> dict[str, np.ndarray]:
    """Three molecules, the second without a SMILES."""
    return {
        "n_atoms": np.array([2, 1, 3], np.uint8),
        "Z": np.array([7, 7, 1, 8, 1, 1], np.uint8),
        "pos": np.arange(18, dtype=np.float32).reshape(6, 3) / 8,
        "smiles": np.array("N#N\n\nO"),
        "targets": np.array([[1.0, 2], [3, np.nan], [5, 6]]),
        "target_names": np.array(["mu_debye", "gap_eV"]),
    }


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("rows", [1, 2, 9])
def test_qm9_npz(tmp_path, save, rows):
    save(tmp_path / "q.npz", **qm9_arrays())
    records, names = read(tmp_path / "q.npz", tmp_path / "work", rows, format="qm9_npz")
    assert names == ("mu_debye", "gap_eV")
    found = geometries(records)
    assert [g.get("smiles") for g in found] == ["N#N", "", "O"]
    assert [g["numbers"] for g in found] == [[7, 7], [1], [8, 1, 1]]
    assert found[2]["positions"] == [(np.arange(9, 18).reshape(3, 3) / 8).tolist()]
    assert repr([r.targets for r in records]) == "[(1.0, 2.0), (3.0, nan), (5.0, 6.0)]"
    records, _ = read(tmp_path / "q.npz", tmp_path / "work", rows, format="qm9_npz", target_columns=["gap_eV"])
    assert [r.targets for r in records][::2] == [(2.0,), (6.0,)]
    with pytest.raises(DataError, match=r"no column 'gap'.*its columns are mu_debye, gap_eV"):
        read(tmp_path / "q.npz", tmp_path / "work", format="qm9_npz", target_columns=["gap"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Z": np.zeros(5, np.uint8)}, r"pos has the shape \[6, 3\], expected \[5, 3\]"),
        ({"n_atoms": np.array([2, 2, 3], np.uint8)}, "Z has 6 atoms: they do not fit"),
        ({"smiles": np.array("N#N\nO")}, "smiles has 2 lines"),
        ({"smiles": np.array([None, "O", "C"], object)}, "'smiles' is stored as Python objects"),
        ({"pos": np.asfortranarray(np.zeros((6, 3)))}, "'pos' is stored as columns first"),
    ],
)
def test_arrays_that_do_not_fit_are_an_error(tmp_path, change, message):
    np.savez(tmp_path / "q.npz", **{**qm9_arrays(), **change})
    with pytest.raises(DataError, match=message):
        read(tmp_path / "q.npz", tmp_path / "work", format="qm9_npz")


def test_what_is_no_npz_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "q.npz").write_bytes(b"PK\x03\x04 and nothing")
    with pytest.raises(DataError, match=r"q.npz is truncated or damaged"):
        read(tmp_path / "q.npz", tmp_path / "work", format="md17")
    np.savez(tmp_path / "q.npz", R=np.zeros(3))
    with pytest.raises(DataError, match=r"q.npz has the arrays R; expected R or coords, F or forces"):
        read(tmp_path / "q.npz", tmp_path / "work", format="md17")


def test_the_real_qm9_npz(shared_data, tmp_path):
    file = shared_data / "dev" / "qm9_dev_60k.npz"
    config = ReadConfig(format="qm9_npz")
    splits = cut(open_sources([str(file)], tmp_path, config), 2048)
    assert sum(split.rows for split in splits) == 60_000
    arrays = np.load(file, allow_pickle=False)
    starts = np.concatenate([[0], np.cumsum(arrays["n_atoms"].astype(int))])
    records = list(read_split(splits[-1]))
    for k in (0, len(records) // 2, len(records) - 1):
        row = records[k].row
        atoms = slice(starts[row], starts[row + 1])
        geometry = json.loads(records[k].text)
        assert geometry["smiles"] == str(arrays["smiles"]).split("\n")[row]
        assert geometry["numbers"] == arrays["Z"][atoms].tolist()
        assert np.array_equal(np.float32(geometry["positions"][0]), arrays["pos"][atoms])
        assert records[k].targets == tuple(arrays["targets"][row])


@pytest.mark.parametrize("names", [("R", "F", "E", "z"), ("coords", "forces", "energies", "nuclear_charges")])
@pytest.mark.parametrize("energy_shape", [(4,), (4, 1)])
def test_md17_and_rmd17_frames_are_records(tmp_path, names, energy_shape):
    random = np.random.default_rng(0)
    positions, forces = random.normal(size=(2, 4, 3, 3))
    forces[2, 0, 0] = np.nan
    values = (positions, forces, np.arange(4.0).reshape(energy_shape) - 9, np.array([8, 1, 1], np.uint8))
    np.savez(tmp_path / "m.npz", **dict(zip(names, values, strict=True)), old_indices=np.arange(4))
    records, targets = read(tmp_path / "m.npz", tmp_path / "work", 3, format="md17")
    assert targets == ()
    assert (records[2].reason, records[2].row) == ("malformed_row", 2)
    for k in (0, 1, 3):
        assert json.loads(records[k].text) == {
            "numbers": [8, 1, 1],
            "positions": [positions[k].tolist()],
            "energies": [k - 9.0],
            "forces": [forces[k].tolist()],
        }


def test_the_real_md17_is_read_where_it_lies(shared_data, tmp_path):
    file = shared_data / "geom3d" / "md17" / "ethanol_2000.npz"
    records, _ = read(file, tmp_path / "work", 300, format="md17")
    assert list((tmp_path / "work").iterdir()) == []
    arrays = np.load(file, allow_pickle=False)
    geometry = json.loads(records[1999].text)
    assert len(records) == 2000
    assert geometry["positions"] == [arrays["R"][1999].tolist()]
    assert geometry["forces"] == [arrays["F"][1999].tolist()]
    assert geometry["energies"] == [float(arrays["E"][1999].item())]


# --- GEOM -------------------------------------------------------------------------------------------------------------


def conformer(energy: float, shift: float, numbers=(8, 1, 1)) -> dict:
    """As in GEOM's files."""
    xyz = [[float(z), k + shift, 0.0, 1.0] for k, z in enumerate(numbers)]
    return {"geom_id": 1, "totalenergy": -5.0, "relativeenergy": energy, "boltzmannweight": 0.5, "xyz": xyz}


def write_geom(file: Path) -> Path:
    """Two maps of two and three molecules, an empty one between them."""
    water = {"conformers": [conformer(e, e) for e in (2.0, 0.0, 1.0)], "charge": 0, "ensembleenergy": 0.25}
    ion = {"conformers": [conformer(0.0, 3.0, (7, 1, 1, 1, 1))], "charge": 1}
    broken = {"conformers": [conformer(0.0, 0.0), conformer(1.0, 0.0, (8, 1))]}
    maps = [{"O": water, "[NH4+]": ion}, {}, {"OO": broken, "C": {}, "[OH2]": water}]
    file.write_bytes(b"".join(map(msgpack.packb, maps)))
    return file


@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_geom_gives_the_conformers_of_lowest_energy(tmp_path, rows):
    file = write_geom(tmp_path / "drugs_crude.msgpack")
    records, _ = read(file, tmp_path / "work", rows, format="geom", max_conformers=2, target_columns=["ensembleenergy"])
    water, ion, broken, empty, again = records
    assert json.loads(water.text) == {
        "smiles": "O",
        "numbers": [8, 1, 1],
        "positions": [[[k + e, 0.0, 1.0] for k in range(3)] for e in (0.0, 1.0)],
        "energies": [0.0, 1.0],
    }
    assert json.loads(ion.text)["charge"] == 1
    assert water.targets == again.targets == (0.25,)
    assert np.isnan(ion.targets[0])
    assert (broken.reason, broken.text, empty.reason, empty.text) == ("malformed_row", "OO", "malformed_row", "C")
    assert "conformers of different atoms" in broken.detail
    assert json.loads(again.text)["smiles"] == "[OH2]"


def test_a_geom_file_that_is_cut_short_loses_its_last_molecule_alone(tmp_path):
    file = write_geom(tmp_path / "g.msgpack")
    file.write_bytes(file.read_bytes()[:-30])
    records, _ = read(file, tmp_path / "work", 2, format="geom")
    assert [isinstance(r, RawMolecule) for r in records] == [True, True, False, False, False]
    assert "cut short" in records[-1].text or records[-1].text == "[OH2]"
    file.write_bytes(b"\xc1 no msgpack")
    with pytest.raises(DataError, match=r"g.msgpack is damaged, or not as GEOM's files, at byte 0"):
        read(file, tmp_path / "work", format="geom")


# --- MoleculeNet ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_every_real_moleculenet_file_has_its_targets(shared_data, tmp_path, task):
    folder = "deepchem" if task in ("muv", "toxcast") else "kano"
    file = benchmark_file(task, shared_data / "moleculenet" / folder)
    records, names = read(file, tmp_path / "work", format="moleculenet")
    count = {"tox21": 12, "toxcast": 617, "sider": 27, "clintox": 2, "muv": 17, "qm8": 12}.get(task, 1)
    assert len(names) == count
    assert not {"smiles", "mol_id", "num", "name"} & set(names)
    good = [r for r in records if isinstance(r, RawMolecule)]
    assert len(good) == len(records)
    assert all(Chem.MolFromSmiles(r.text) for r in good[-5:])
    assert all(np.isfinite([r.targets[k] for r in good]).any() for k in range(count))


@pytest.mark.parametrize(
    ("name", "header", "targets"),
    [
        ("delaney-processed.csv", "Compound ID,measured log solubility in mols per litre,smiles", 1),
        ("SAMPL.csv", "iupac,smiles,expt,calc", 2),
        ("Lipophilicity.csv", "CMPD_CHEMBLID,exp,smiles", 1),
        ("bace.csv", "mol,CID,Class,Model,pIC50", 2),
    ],
)
def test_original_files_of_moleculenet_are_known_too(tmp_path, name, header, targets):
    row = ["CC" if cell in ("smiles", "mol") else str(k) for k, cell in enumerate(header.split(","))]
    (tmp_path / name).write_text(f"{header}\n{','.join(row)}\n")
    (record,), names = read(tmp_path / name, tmp_path / "work", format="moleculenet")
    assert (record.text, record.targets) == ("CC", (float(targets),))
    assert names == (header.split(",")[targets],)


def test_moleculenet_errors_say_what_was_expected(tmp_path):
    (tmp_path / "mine.csv").write_text("smiles,y\nC,1\n")
    with pytest.raises(DataError, match=r"mine.csv: no MoleculeNet task is called so; expected a file named bace"):
        read(tmp_path / "mine.csv", tmp_path / "work", format="moleculenet")
    (tmp_path / "esol.csv").write_text("smiles,y\nC,1\n")
    with pytest.raises(DataError, match=r"esol.csv has the columns smiles, y; expected the targets logSolubility or"):
        read(tmp_path / "esol.csv", tmp_path / "work", format="moleculenet")
    assert read(tmp_path / "esol.csv", tmp_path / "work", format="moleculenet", target_columns=["y"])[1] == ("y",)
    (tmp_path / "mine.csv").unlink()
    (tmp_path / "esol.csv").write_text("smiles,logSolubility\nC,1\n")
    (tmp_path / "bbbp.csv").write_text("smiles,p_np\nC,1\n")
    with pytest.raises(DataError, match=r"different targets \(bbbp.csv: p_np; esol.csv: logSolubility\)"):
        read(tmp_path, tmp_path / "work", format="moleculenet")


def test_a_benchmark_file_is_found_by_the_name_of_its_task(tmp_path):
    for name in ("delaney-processed.csv", "esol.csv.zst", "SAMPL.csv", "qm7.txt"):
        (tmp_path / name).write_text("x")
    assert benchmark_file("esol", tmp_path).name == "esol.csv.zst"
    assert benchmark_file("freesolv", tmp_path).name == "SAMPL.csv"
    with pytest.raises(ConfigError, match=r"holds no file of the task 'qm7': looked for qm7.csv, qm7.csv.gz"):
        benchmark_file("qm7", tmp_path)
    with pytest.raises(ConfigError, match=r"'qm5' is neither a file nor a MoleculeNet task; the tasks are bace, bbbp"):
        benchmark_file("qm5", tmp_path)


# --- all --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_refuses_files_of_other_kinds(tmp_path, name):
    (tmp_path / "m.xyz").write_text("x")
    with pytest.raises(DataError, match=r"m.xyz: unknown format. Expected a name ending in \.\w+"):
        read(tmp_path / "m.xyz", tmp_path / "work", format=name)
