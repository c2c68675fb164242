"""The model card of an export: YAML front matter for hubs, then use, inputs, training, worth and limits."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

TEMPLATE = """---
library_name: molstream
tags: [chemistry, molecules, embeddings, {modalities}]
pipeline_tag: feature-extraction
---

# {title}

A molecular encoder ({encoders}; {num_values:,} values), purpose: **{purpose}**.

## Use

```python
from molstream import MoleculeEmbedder, load_pretrained

embedder = MoleculeEmbedder.from_pretrained("PATH_OF_THIS_FOLDER")
vectors = embedder.transform(["CCO", "c1ccccc1O"])  # float32 [2, d], row i belongs to input i

encoder = load_pretrained("PATH_OF_THIS_FOLDER", representation="{first}")  # a torch.nn.Module, to fine-tune
```

## Inputs

SMILES; molstream standardizes them (schema {schema}, RDKit {rdkit}):
{hydrogens}, at most {max_atoms} heavy atoms.{conformer}

## Training

| | |
|---|---|
| objective | {objective} |
| steps x global batch | {steps:,} x {global_batch:,} molecules |
| dataset | {molecules:,} molecules, fingerprint `{fingerprint}` |
| seed | {seed} |
"""
CONFORMER = " The 3D part uses one seeded ETKDG conformer per molecule."
EVALUATION = {
    "export_fingerprint": str | None,
    "representation": str,
    "head": str,
    "composition": [str],
    "foldings": [
        {
            "folding": str,
            "table": {"columns": [str], "rows": [{"representation": str, "cells": [str]}]},
            "sentences": [str],
        }
    ],
}
"""What is needed of an evaluation's JSON."""
LIMITS = """
## Limits

Organic molecules like those of the training set; no periodic systems, no proteins. Dummy atoms are rejected.
"""


def model_card(
    name: str,
    description: Mapping[str, Any],
    modalities: Sequence[str],
    num_values: int,
    evaluation: Mapping[str, Any] | None = None,
    sources: str | None = None,
) -> str:
    """Write the card, Markdown.

    Args:
        name: title.
        description: config.json of the export.
        modalities: ``2d``, ``3d`` or both, which there are encoders of.
        num_values: number of the weights.
        evaluation: JSON of ``molstream evaluate vectors`` about these weights.
        sources: Markdown about the molecules' sources and their licences.
    """
    training, featurizer = description["training"], description["featurizer"]
    chemistry = featurizer["config"]
    card = TEMPLATE.format(
        modalities=", ".join(modalities),
        title=re.sub(r"[^\w-]+", "-", name),
        encoders=", ".join(description["model"]),
        num_values=num_values,
        purpose=description["purpose"],
        first=modalities[0],
        schema=featurizer["schema_version"],
        rdkit=featurizer["rdkit"],
        hydrogens="heavy atoms only" if chemistry["hydrogens"] == "heavy" else "all atoms, hydrogens included",
        max_atoms=chemistry["max_atoms"],
        conformer=CONFORMER if "3d" in modalities else "",
        objective=", ".join(training["objective"]),
        steps=training["steps"],
        global_batch=training["global_batch"],
        molecules=training["dataset_molecules"],
        fingerprint=training["dataset_fingerprint"],
        seed=training["seed"],
    )
    known = f"\n## Sources\n\n{sources.strip()}\n" if sources else ""
    worth = "\n## Evaluation\n\n" + "\n".join(_evaluated(evaluation)) + "\n" if evaluation else ""
    return card + known + worth + LIMITS


def _evaluated(result: Mapping[str, Any]) -> Iterator[str]:
    """What frozen vectors are worth: tables, then the comparisons of their means in words."""
    yield f"Frozen {result['representation'].upper()} vectors, `molstream evaluate vectors`, {result['head']} heads."
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
