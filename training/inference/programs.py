"""Programs of an export that compute 2D vectors without molstream's models: ONNX, and a ``torch.export`` program.

Inputs are the fields of :class:`~molstream.training.models.padded.PaddedMolecules`, output is ``vectors``, float32
[g, d]: what the encoder gives with the readout that it was trained with. All numbers of molecules, slots and bonds are
free.
"""

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from molstream.errors import ConfigError
from molstream.training.checkpoint.exported import ONNX_FILE, PROGRAM_FILE
from molstream.training.checkpoint.load import load_weights
from molstream.training.models.config import ModelConfig
from molstream.training.models.encoders import Encoders
from molstream.training.models.padded import PaddedEncoder, PaddedMolecules

ONNX, TORCH_EXPORT = "onnx", "torch_export"
"""What ``include`` calls the programs."""
OUTPUT = "vectors"
LARGEST_ONNX = 2**31 - 2**24
"""Bytes of weights in one file of ONNX; protobuf can hold 2 GiB."""
MOLECULES, SLOTS, BONDS = Dim("molecules"), Dim("slots"), Dim("bonds")
FREE = ({0: MOLECULES, 1: SLOTS}, {0: MOLECULES}, {1: BONDS}, {0: BONDS})
"""Dimensions of the inputs that are not fixed."""
# No number is 1, or equal to another by chance.
EXAMPLE = PaddedMolecules(
    atoms=torch.zeros((2, 4, 9), dtype=torch.long),
    num_atoms=torch.tensor([4, 2]),
    bonds=torch.tensor([[0, 1, 4], [1, 2, 5]]),
    bond_features=torch.zeros((3, 3), dtype=torch.long),
)


def require_programs(include: Sequence[str], model: ModelConfig) -> None:
    """Check, before an export begins, that its model can be written as the programs among ``include``.

    Raises:
        ConfigError: the model has no 2D encoder, or one that cannot be exported, or a package is missing.
    """
    if not set(include) & {ONNX, TORCH_EXPORT}:
        return
    PaddedEncoder(model.encoder_of("2d"), None)
    if ONNX in include and (missing := [n for n in ("onnx", "onnxscript") if importlib.util.find_spec(n) is None]):
        raise ConfigError(f"include=[onnx] needs {' and '.join(missing)}: pip install 'molstream[onnx]'.")


def write_programs(include: Sequence[str], model: ModelConfig, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write the programs among ``include`` to the folder of an export.

    Args:
        include: optional files of an export.
        model: the encoders.
        weights: their weights by name.
        folder: of the export.

    Raises:
        ConfigError: see :func:`require_programs`; or the weights are too large for one file of ONNX.
    """
    if not set(include) & {ONNX, TORCH_EXPORT}:
        return
    encoders = Encoders(model)
    load_weights(encoders, weights)
    program = traced(encoders, model)
    if TORCH_EXPORT in include:
        write_torch_program(program, folder / PROGRAM_FILE)
    if ONNX in include:
        write_onnx(program, folder / ONNX_FILE)


def traced(encoders: Encoders, model: ModelConfig) -> ExportedProgram:
    """Trace the 2D encoder and its readout.

    Raises:
        ConfigError: it cannot be exported, see :func:`require_programs`.
    """
    encoder = PaddedEncoder(model.encoder_of("2d"), encoders.encoder("2d")).eval()
    with torch.no_grad():
        program = torch.export.export(encoder, tuple(EXAMPLE), dynamic_shapes=FREE)
    # They would be written as a pickle.
    program.example_inputs = None
    return program


def write_torch_program(program: ExportedProgram, file: Path) -> None:
    """Write a program for ``torch.export.load``."""
    with file.open("wb") as stream:
        torch.export.save(program, stream)


def write_onnx(program: ExportedProgram, file: Path) -> None:
    """Write a program as ONNX.

    Raises:
        ConfigError: its weights are too large for one file.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    if size > LARGEST_ONNX:
        raise ConfigError(
            f"include=[onnx]: the weights have {size / 2**30:.1f} GiB, and a file of ONNX holds at most 2 GiB. "
            "Leave it out; torch_export has no such limit."
        )
    with _quiet():
        written: Any = torch.onnx.export(
            program, tuple(EXAMPLE), input_names=EXAMPLE._fields, output_names=[OUTPUT], dynamo=True, verbose=False
        )
    written.save(str(file))


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of deprecations and of what it simplifies, which is for its authors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
