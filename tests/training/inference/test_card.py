"""The model card: everything in it is from the run's records, and nothing in it is untrue for another model."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData

from molstream.config import load, tree_of
from molstream.errors import DataError
from molstream.preprocessing.config import ConformerConfig, FeaturizeConfig, StandardizeConfig
from molstream.training.extended import ModelConfig
from molstream.training.inference.card import model_card
from molstream.training.inference.config import ExportConfig
from molstream.training.inference.export import export_run
from molstream.training.inference.facts import Facts, Sources, read_sources
from molstream.training.inference.references import REFERENCES
from molstream.training.models.config import BlendTransformerConfig, GINConfig, ResNetConfig, SchNetConfig
from molstream.training.models.encoders import ENCODERS
from molstream.training.objectives.table import OBJECTIVES
from molstream.training.run.history import Launch
from tests.support.road import GOLDEN

DATASET = json.loads((GOLDEN / "narrow" / "dataset.json").read_text())
SMALL: dict[str, Any] = {"hidden": 8, "num_layers": 1}
GIN = ModelConfig(gin=GINConfig(**SMALL))
SCHNET = ModelConfig(schnet=SchNetConfig(hidden=8))
BLEND = ModelConfig(blend_transformer=BlendTransformerConfig(hidden=8, num_layers=1, num_heads=1))
HOUR = 3600.0


def facts(model: ModelConfig = GIN, **changes: Any) -> Facts:
    """Of an encoder of which little is known."""
    featurize = changes.get("featurize", FeaturizeConfig())
    config = {
        "purpose": "pretrained",
        "model": {name: tree_of(getattr(model, name)) for name in model.encoders().values()},
        "featurizer": {"schema_version": 4, "rdkit": "2026.3.1", "config": tree_of(featurize)},
        "training": {"objective": {"descriptors": {"weight": 0.5}}, "steps": 10, "global_batch": 83, "seed": 7},
        "files": {"model.safetensors": {}},
        "fingerprint": "f" * 64,
    }
    given = Facts("mine", None, config, model, featurize, dict.fromkeys(config["model"], 1234), DATASET, [], 0.0)
    return replace(given, **changes)


def section(card: str, title: str) -> str:
    return card.partition(f"\n## {title}\n\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The card of an export of the run, and its folder."""
    folder = tmp_path_factory.mktemp("card")
    (folder / "sources.md").write_text("---\nlicense: cc-by-4.0\ndatasets: [org/one]\n---\nFrom a **shelf**.\n")
    output, sources = folder / "encoder", folder / "sources.md"
    export_run(ExportConfig(run_dir=str(small_run), output=str(output), sources=str(sources)))
    return (output / "README.md").read_text(), output


def test_the_client_of_the_hub_reads_the_metadata(exported):
    card = ModelCard(exported[0], ignore_metadata_errors=False)
    assert isinstance(card.data, ModelCardData)
    assert card.data.to_dict() == {
        "library_name": "molstream",
        "pipeline_tag": "feature-extraction",
        "license": "cc-by-4.0",
        "datasets": ["org/one"],
        "tags": ["chemistry", "molecules", "embeddings", "2d", "3d", "moleculesde"],
    }
    assert card.text.strip().startswith("# encoder\n")


def test_the_numbers_are_those_of_the_run(exported, small_run):
    card, folder = exported
    config, record = (json.loads((place).read_text()) for place in (folder / "config.json", small_run / "dataset.json"))
    for number in (*record["counts"]["rejected"].values(), record["counts"]["written"], record["counts"]["in"]):
        assert f"{number:,}" in section(card, "Data")
    assert record["fingerprint"] in section(card, "Data")
    assert all(f"`{source['name']}`" in section(card, "Data") for source in record["config"]["sources"])
    assert config["fingerprint"] in section(card, "Citation")
    assert "arXiv 2305.18407" in section(card, "Citation")
    for name, sizes in config["model"].items():
        assert f"| {name} | " in section(card, "Architecture")
        assert f"num_layers={sizes['num_layers']}, " in section(card, "Architecture")
    assert "moleculesde (weight 1)" in section(card, "Training")
    assert re.search(r"\| compute \| 1 process, ZeRO 1, fp32, cpu; \S+ process-hours \|", section(card, "Training"))
    assert section(card, "Sources and licences") == "From a **shelf**.\n"
    sizes = [int(number) for number in record["histograms"]["heavy_atoms"]]
    assert f"Training molecules have {min(sizes)} to {max(sizes)}, " in section(card, "Limits")
    elements = section(card, "Limits").partition("most frequent first: ")[2].partition(".")[0].split(", ")
    assert set(elements) == set(record["histograms"]["elements"])
    assert elements[0] == "C"


def test_its_three_lines_give_vectors_of_the_width_that_it_says(exported, capsys):
    card, folder = exported
    (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(program.splitlines()) == 3
    found: dict[str, Any] = {}
    exec(program.replace("PATH_OF_THIS_FOLDER", str(folder)), found)
    assert f"# float32 {list(found['vectors'].shape)}, row i" in program


def test_an_address_that_it_is_pushed_to_stands_in_the_usage(small_run, tmp_path):
    config = ExportConfig(run_dir=str(small_run), output=str(tmp_path / "export"), push="hf://org/my-encoder@next")
    card = (export_run(config) / "README.md").read_text()
    assert "# my-encoder\n" in card
    assert 'from_pretrained("hf://org/my-encoder@next")' in card


def test_what_is_said_of_3d_is_true_of_each_kind_of_model():
    two, three, both = (section(model_card(facts(model)), "Inputs") for model in (GIN, SCHNET, BLEND))
    assert "- 3D: not needed, and not used." in two
    assert "- 3D: needed. An input's own geometry is used" in three
    assert "one encoder sees bonds, positions or both; all but `representation=2d` needs positions" in both
    assert "relaxed by MMFF94s" in three
    replaced = FeaturizeConfig(conformers=ConformerConfig(given="replace", force_field="none"))
    other = section(model_card(facts(SCHNET, featurize=replaced)), "Inputs")
    assert "An input's own geometry is ignored: a seeded ETKDG conformer is made.\n" in other
    assert "formal charges" in section(model_card(facts(GIN)), "Limits")


def test_what_is_said_of_images_is_true_of_each_kind_of_model():
    resnet = ResNetConfig(width=8, image_size=112)
    drawn, flat, spatial = (model_card(facts(replace(model, resnet=resnet))) for model in (ModelConfig(), GIN, SCHNET))
    for card in (drawn, flat, spatial):
        assert "drawing of the standardized molecule, 112 x 112 pixels" in section(card, "Inputs")
        assert "| resnet | image | 1,234 | 64 numbers | width=8, image_size=112 |" in section(card, "Architecture")
        assert "arXiv 1512.03385" in section(card, "Citation")
    assert "- 3D: not needed, and not used." in section(flat, "Inputs")
    assert "- 3D: not needed, and not used." in section(drawn, "Inputs")
    assert "needed by the 3D encoder alone; `representation=image` does without" in section(spatial, "Inputs")
    assert "Images" not in section(model_card(facts(GIN)), "Inputs")
    assert "formal charges" not in section(model_card(facts(SCHNET)), "Limits")
    assert section(model_card(facts(BLEND)), "Architecture").count("| blend_transformer | 2d and 3d | 1,234 | 24 ") == 1


def test_the_rules_of_the_featurizer_are_those_of_this_model():
    off = StandardizeConfig(**dict.fromkeys(tree_of(StandardizeConfig()), False))
    card = model_card(facts(featurize=FeaturizeConfig(standardize=off, hydrogens="all", max_atoms=17)))
    assert "- Standardizing: nothing is changed." in section(card, "Inputs")
    assert "- Atoms: all atoms, hydrogens included." in section(card, "Inputs")
    assert "- Size: at most 17 heavy atoms" in section(card, "Limits")
    assert "- Charges: they stay as given;" in section(card, "Limits")


def test_compute_is_that_of_all_launches_and_what_is_unknown_is_said():
    one = Launch(0, 0.0, 4, 2, "bf16", "cuda", "host", 0, "stopped", 3 * HOUR)
    killed = Launch(5, 4 * HOUR, 4, 2, "bf16", "cuda", "host", 5)
    last = Launch(5, 5 * HOUR, 2, 2, "bf16", "cuda", "host", 9, "finished", 6 * HOUR)

    def compute(launches: list[Launch]) -> str:
        return section(model_card(facts(launches=launches)), "Training").partition("| compute | ")[2].partition(" |")[0]

    assert compute([]) == "not recorded"
    assert compute([one, last]) == (
        "4 processes, ZeRO 2, bf16, cuda, then 2 processes, ZeRO 2, bf16, cuda; 14 process-hours"
    )
    assert compute([one, killed]).endswith("; 12 process-hours; 1 of 2 launches without a recorded end")


def test_decontamination_mixtures_and_beginnings_are_told():
    plain = model_card(facts())
    assert "| decontaminated | not at all: molecules of public benchmarks can be among" in section(plain, "Data")
    assert "did not say where the molecules come from" in section(plain, "Sources and licences")
    assert "was not measured for this export" in section(plain, "Evaluation")
    assert "| began with | random weights |" in section(plain, "Training")
    assert "| passes over the data | 10 |" in section(plain, "Training")
    cleaned = {**DATASET, "benchmarks": {"esol": 3}, "counts": {**DATASET["counts"], "decontaminated": 2}}
    card = model_card(facts(dataset=cleaned, init_from="hf://org/first@v1", ema_decay=0.999))
    assert "| decontaminated | 2 left out by the same InChIKey (esol 3) |" in section(card, "Data")
    assert "| began with | the weights of `hf://org/first@v1` |" in section(card, "Training")
    assert "| weights | moving average over the steps, decay 0.999 |" in section(card, "Training")
    mix = [{"path": f"/home/me/{name}", "weight": 2, "fingerprint": name * 64} for name in "ab"]
    card = model_card(facts(dataset={**cleaned, "mix": mix}, init_from="/home/me/runs/first"))
    assert f"- a: weight 2, fingerprint `{'a' * 64}`\n- b: " in section(card, "Data")
    assert "2 left out (esol 3)" in section(card, "Data")
    assert "/home/me" not in card


def test_a_test_export_and_heads_are_said():
    given = facts()
    files = {"model.safetensors": {}, "heads.safetensors": {}, "encoder_2d.onnx": {}}
    config = {**given.config, "purpose": "test", "files": files}
    card = model_card(replace(given, config=config))
    assert "must not be used in earnest" in section(card, "Purpose")
    assert "heads.safetensors" in section(card, "Use")
    assert "without molstream's models: `encoder_2d.onnx`.\n" in section(card, "Use")
    assert not re.search(r"heads\.safetensors|encoder_2d", model_card(given))


def test_references_are_of_what_there_is():
    assert REFERENCES.keys() <= ENCODERS.keys() | OBJECTIVES.keys()
    card = model_card(facts(SCHNET))
    assert "arXiv 1706.08566" in card
    assert "MoleculeSDE" not in card
    assert "It builds on" not in model_card(facts(load(ModelConfig, {"geometry_transformer": {}}, "test")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("---\nlicence: mit\n---\n", "got 'licence'; expected license, license_name"),
        ("---\nlicense: [mit]\n---\n", "got 'license'; expected license"),
        ("---\n- license\n---\n", "its metadata, cannot be used: expected license"),
        ("---\nlicense: !!python/object:os.system {}\n---\n", "cannot be read as YAML: the tag"),
        (b"\xff", "it is not UTF-8"),
    ],
)
def test_sources_that_cannot_be_used_are_an_error(tmp_path, text, message):
    file = tmp_path / "sources.md"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_sources(str(file))


def test_sources_without_metadata_are_text(tmp_path):
    (tmp_path / "sources.md").write_text("One\n---\nlicense: mit\n---\n")
    assert read_sources(str(tmp_path / "sources.md")) == Sources({}, "One\n---\nlicense: mit\n---\n")


def test_a_record_of_a_dataset_without_what_is_shown_is_an_error(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "run")
    file = tmp_path / "run" / "dataset.json"
    record = json.loads(file.read_text())
    del record["conformer_status"]
    file.write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"dataset\.json cannot be used: the key 'conformer_status' is missing"):
        export_run(ExportConfig(run_dir=str(tmp_path / "run")))
