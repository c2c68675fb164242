"""The model card of an export, generated from what the run recorded: metadata of Hugging Face, then Markdown."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from molstream.pipeline.shards.histograms import quantiles
from molstream.preprocessing.config import ConformerConfig
from molstream.training.checkpoint.exported import FILES, FINGERPRINT, HEADS_FILE, ONNX_FILE, PROGRAM_FILE
from molstream.training.inference.facts import Facts
from molstream.training.inference.references import references
from molstream.training.run.history import Launch

MOST_FILES = 20
"""Most input files that are named."""
SIZES = (0.005, 0.5, 0.995)
"""Quantiles of the sizes of molecules that are named between the least and the largest one."""
STANDARDIZED = {
    "disconnect_metals": "bonds of metals to non-metals are broken",
    "normalize": "functional groups and charges are written in one way",
    "largest_fragment": "of several fragments only the largest is kept, so that counter-ions and solvent go",
    "neutralise": "charges that protons can remove are removed",
    "canonical_tautomer": "RDKit's canonical tautomer is taken",
}
"""The steps of standardizing, in words."""
SAME_MOLECULES = {
    "key": "the same InChIKey",
    "connectivity": "the same first block of the InChIKey",
    "scaffold": "the same scaffold",
}
"""What decontamination compared."""


def model_card(facts: Facts) -> str:
    """Write the card, Markdown."""
    sections = {
        "Use": _use,
        "Purpose": _purpose,
        "Inputs": _inputs,
        "Architecture": _architecture,
        "Training": _training,
        "Data": _data,
        "Sources and licences": _sources,
        "Evaluation": _evaluation,
        "Limits": _limits,
        "Citation": _citation,
    }
    body = [f"\n## {title}\n\n" + "\n".join(section(facts)) + "\n" for title, section in sections.items()]
    return "".join([_metadata(facts), f"\n# {facts.name}\n\n{_summary(facts)}\n", *body])


def _metadata(facts: Facts) -> str:
    """The front matter, which Hugging Face reads."""
    from huggingface_hub import ModelCardData

    tags = ["chemistry", "molecules", "embeddings", *facts.modalities, *facts.config["training"]["objective"]]
    given: dict[str, Any] = dict(facts.sources.metadata) if facts.sources else {}
    data = ModelCardData(library_name="molstream", pipeline_tag="feature-extraction", tags=tags, **given)
    return f"---\n{data.to_yaml()}\n---\n"


def _summary(facts: Facts) -> str:
    learnt = " and ".join(facts.config["training"]["objective"])
    names = dict.fromkeys(facts.model.encoders().values())
    return (
        f"A molecular encoder ({', '.join(names)}; {sum(facts.parameters.values()):,} parameters) that gives "
        f"molecules vectors, pretrained by {learnt} on {facts.dataset['counts']['written']:,} molecules. "
        f"Purpose: **{facts.config['purpose']}**."
    )


def _use(facts: Facts) -> Iterator[str]:
    width = sum(facts.model.readout_width(modality) for modality in facts.modalities)
    address = json.dumps(facts.address or "PATH_OF_THIS_FOLDER")
    yield "```python"
    yield "from molstream import MoleculeEmbedder"
    yield f"embedder = MoleculeEmbedder.from_pretrained({address})"
    yield f'vectors = embedder.transform(["CCO", "c1ccccc1O"])  # float32 [2, {width}], row i belongs to input i'
    yield "```"
    yield ""
    yield f"`molstream.load_pretrained({address})` is the same as a `torch.nn.Module`, to fine-tune."
    if programs := [f"`{name}`" for name in (ONNX_FILE, PROGRAM_FILE) if name in facts.config[FILES]]:
        yield f"Programs that compute the 2D vector without molstream's models: {', '.join(programs)}."
    if HEADS_FILE in facts.config[FILES]:
        yield f"It has its heads, `{HEADS_FILE}`: `molstream generate` takes it if an objective of it generates."


def _purpose(facts: Facts) -> Iterator[str]:
    if facts.config["purpose"] == "test":
        yield "This is an export for tests only. Its vectors must not be used in earnest."
        return
    yield "- For: features of molecules, frozen or fine-tuned, for property prediction, similarity and clustering."
    yield "- Not for: predictions as it stands. A model of a property has to be fitted to the vectors and validated on"
    yield "  molecules like those that it will be used for."
    yield "- Not for: decisions about safety, dose or synthesis without an experiment."
    yield "- Not for: polymers, crystals and proteins. Inputs are molecules with all their atoms, of the sizes below."


def _inputs(facts: Facts) -> Iterator[str]:
    config, record = facts.featurize, facts.config["featurizer"]
    done = [words for step, words in STANDARDIZED.items() if getattr(config.standardize, step)]
    atoms = "heavy atoms alone" if config.hydrogens == "heavy" else "all atoms, hydrogens included"
    yield "SMILES, RDKit molecules or molecule files. molstream featurizes them as it did the training data (schema"
    yield f"{record['schema_version']}, RDKit {record['rdkit']}), so that every spelling of a molecule has one vector:"
    yield ""
    yield f"- Standardizing: {'; '.join(done) or 'nothing is changed'}."
    yield f"- Atoms: {atoms}."
    yield f"- 3D: {_three_dimensions(facts)}"
    if size := facts.model.image_size:
        yield f"- Images: RDKit's drawing of the standardized molecule, {size} x {size} pixels, which molstream makes."


def _three_dimensions(facts: Facts) -> str:
    positions = _positions(facts.featurize.conformers)
    others = [modality for modality in facts.modalities if modality != "3d"]
    if "3d" not in facts.modalities:
        return "not needed, and not used."
    if not others:
        return f"needed. {positions}"
    if facts.model.encoder_both:
        return f"one encoder sees bonds, positions or both; all but `representation=2d` needs positions. {positions}"
    return f"needed by the 3D encoder alone; `representation={others[0]}` does without. {positions}"


def _positions(config: ConformerConfig) -> str:
    made = "a seeded ETKDG conformer is made"
    if config.force_field != "none":
        made += f" and relaxed by {config.force_field}"
    if config.given == "replace":
        return f"An input's own geometry is ignored: {made}."
    return f"An input's own geometry is used if it covers every stored atom; otherwise {made}."


def _architecture(facts: Facts) -> Iterator[str]:
    yield "| encoder | sees | parameters | molecule's vector | sizes |"
    yield "|---|---|---|---|---|"
    sees: dict[str, list[str]] = {}
    for modality, name in sorted(facts.model.encoders().items()):
        sees.setdefault(name, []).append(modality)
    for name, seen in sees.items():
        sizes = ", ".join(f"{key}={value}" for key, value in facts.config["model"][name].items())
        width = facts.model.readout_width(seen[0])
        yield f"| {name} | {' and '.join(seen)} | {facts.parameters[name]:,} | {width} numbers | {sizes} |"


def _training(facts: Facts) -> Iterator[str]:
    training = facts.config["training"]
    objectives = [f"{name} (weight {each['weight']:g})" for name, each in training["objective"].items()]
    yield "| | |"
    yield "|---|---|"
    yield f"| objectives | {', '.join(objectives)} |"
    yield f"| steps x global batch | {training['steps']:,} x {training['global_batch']:,} molecules |"
    average = f"moving average over the steps, decay {facts.ema_decay:g}" if facts.ema_decay else "of the last step"
    seen = training["steps"] * training["global_batch"]
    yield f"| passes over the data | {seen / facts.dataset['counts']['written']:.3g} |"
    yield f"| weights | {average} |"
    yield f"| began with | {_beginning(facts.init_from)} |"
    yield f"| seed | {training['seed']} |"
    yield f"| compute | {_compute(facts.launches)} |"
    yield ""
    yield "All settings of the objectives are in `config.json`."


def _beginning(init_from: str | None) -> str:
    if init_from is None:
        return "random weights"
    # Of a folder only the owner of the machine knows what it is.
    is_public = init_from.startswith("hf://")
    return f"the weights of `{init_from}`" if is_public else "the weights of another checkpoint or export"


def _compute(launches: Sequence[Launch]) -> str:
    """What the run took, over all launches that it had until it was exported."""
    if not launches:
        return "not recorded"
    places = ", then ".join(dict.fromkeys(launch.where for launch in launches))
    timed = [launch for launch in launches if launch.end_time]
    unknown = len(launches) - len(timed)
    hours = sum(launch.world_size * ((launch.end_time or 0.0) - launch.time) for launch in timed) / 3600
    spent = f"; {hours:.2g} process-hours" if timed else ""
    return f"{places}{spent}" + (f"; {unknown} of {len(launches)} launches without a recorded end" if unknown else "")


def _data(facts: Facts) -> Iterator[str]:
    record, counts = facts.dataset, facts.dataset["counts"]
    with_positions = sum(n for name, n in record["conformer_status"].items() if name != "none")
    rejected = ", ".join(f"{reason} {count:,}" for reason, count in counts["rejected"].items())
    yield "| | |"
    yield "|---|---|"
    yield f"| molecules | {counts['written']:,}, of which {with_positions:,} have a conformer |"
    yield f"| fingerprint | `{record['fingerprint']}` |"
    yield f"| records read | {counts['in']:,} |"
    yield f"| duplicates left out | {counts['duplicates']:,} |"
    yield f"| rejected | {sum(counts['rejected'].values()):,}{f' ({rejected})' if rejected else ''} |"
    yield f"| decontaminated | {_decontamination(record)} |"
    yield ""
    if "mix" in record:
        yield "It is a mixture of datasets, whose counts are added:"
        yield ""
        for each in record["mix"]:
            name = each["path"].rstrip("/").rpartition("/")[2]
            yield f"- {name}: weight {each['weight']:g}, fingerprint `{each['fingerprint']}`"
        return
    files = [source["name"] for source in record["config"]["sources"]]
    yield f"Made of {len(files):,} file{'s' if len(files) > 1 else ''}:"
    yield ""
    yield from (f"- `{name}`" for name in files[:MOST_FILES])
    if len(files) > MOST_FILES:
        yield f"- and {len(files) - MOST_FILES:,} more"


def _decontamination(record: Mapping[str, Any]) -> str:
    if not record["benchmarks"]:
        return "not at all: molecules of public benchmarks can be among those of the training"
    sets = ", ".join(f"{name} {count:,}" for name, count in record["benchmarks"].items())
    # Of a mixture, the record has the settings of the first dataset alone.
    how = "" if "mix" in record else f" by {SAME_MOLECULES[record['config']['settings']['decontaminate_by']]}"
    return f"{record['counts']['decontaminated']:,} left out{how} ({sets})"


def _sources(facts: Facts) -> Iterator[str]:
    yield (
        facts.sources.text.strip()
        if facts.sources
        else (
            "Whoever exported this encoder did not say where the molecules come from and under which licences they are."
        )
    )


def _evaluation(facts: Facts) -> Iterator[str]:
    """What frozen vectors are worth: tables, then the comparisons of their means in words."""
    if (result := facts.evaluation) is None:
        yield "What the vectors are worth beside fingerprints and descriptors was not measured for this export."
        return
    yield f"Frozen {result['representation'].upper()} vectors, `molstream evaluate vectors`, {result['head']} heads;"
    yield "all scores are in `eval.json`."
    yield ""
    yield from (f"- {line}" for line in result["composition"])
    for folding in result["foldings"]:
        columns = ["representation", *folding["table"]["columns"]]
        yield from ("", f"{folding['folding']} folds: mean over 5 x 5 folds ± half of the 95 % interval.", "")
        yield f"| {' | '.join(columns)} |"
        yield f"|{'---|' * len(columns)}"
        for row in folding["table"]["rows"]:
            yield f"| {' | '.join([row['representation'], *row['cells']])} |"
        yield ""
        of_means = [line for line in folding["sentences"] if line.startswith("mean of ")]
        yield from (f"- {line}" for line in of_means or folding["sentences"])


def _limits(facts: Facts) -> Iterator[str]:
    config, histograms = facts.featurize, facts.dataset["histograms"]
    sizes, elements = histograms.get("heavy_atoms", {}), histograms.get("elements", {})
    named = ", ".join(sorted(elements, key=lambda symbol: (-elements[symbol], symbol)))
    yield f"- Size: at most {config.max_atoms:,} heavy atoms; larger molecules are rejected."
    if quarters := quantiles(sizes, (0.0, *SIZES, 1.0)):
        least, low, middle, high, most = quarters
        yield f"  Training molecules have {least} to {most}, half of them up to {middle}, 99 % from {low} to {high}."
    if named:
        yield f"- Elements of the training molecules, the most frequent first: {named}. Others are taken, but nothing"
        yield "  was learnt about them."
    charges = "those that protons can remove are removed" if config.standardize.neutralise else "they stay as given"
    seen = "; formal charges outside of -5 to +5 are one class" if "2d" in facts.modalities else ""
    yield f"- Charges: {charges}{seen}."
    yield "- Dummy atoms, R groups and query atoms are rejected."
    yield "- A molecule that is rejected has a vector of NaN, and a reason."


def _citation(facts: Facts) -> Iterator[str]:
    where = f", {facts.address}" if facts.address else ""
    yield f"{facts.name}{where}, an encoder trained with molstream; fingerprint `{facts.config[FINGERPRINT]}`."
    names = dict.fromkeys([*facts.config["training"]["objective"], *facts.model.encoders().values()])
    if found := references(names):
        yield "It builds on"
        yield ""
        yield from (f"- {each}" for each in found)
