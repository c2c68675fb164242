"""What loads from the address of an export, compared with exports in folders."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from molstream import load_pretrained
from molstream.errors import CheckpointError


def same_weights(source: object, folder: Path, revision: str | None = None) -> bool:
    """Whether what loads from a name or URL has the weights of the export in a folder."""
    found, expected = load_pretrained(str(source), revision=revision).state_dict(), load_pretrained(folder).state_dict()
    return all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def loaded(url: str, exports: Sequence[Path]) -> int | None:
    """Which of several exports loads from a URL; None if there is none, or a damaged one."""
    try:
        load_pretrained(url)
    except CheckpointError:
        return None
    for number, folder in enumerate(exports):
        if same_weights(url, folder):
            return number
    pytest.fail(f"what loads from {url} is none of the exports")
