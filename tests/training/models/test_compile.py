"""Transformer blocks by torch.compile: the same numbers, and no other kernels for batches of other sizes."""

import os
import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from molstream.training.models.transformer import compile_blocks
from molstream.training.module import PretrainingModule, build_module
from tests.support.molecules import AWKWARD, DRUGS, model_config, molecule_batch, objective_config, seeded

BATCHES = (DRUGS[:4], DRUGS[4:14], DRUGS[14:21], AWKWARD, [*DRUGS[:3], "C" * 40])


def build() -> PretrainingModule:
    """The tiny module with conditioned blocks that do something."""
    module = build_module(model_config("tiny"), objective_config("moleculesde"), 0)
    for number, (name, parameter) in enumerate(module.named_parameters()):
        if "modulation" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=seeded(number))
    return module


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler: g++, or one in CXX"
)
def test_compiled_blocks_give_the_same_losses_and_gradients_at_any_size():
    plain, compiled = build(), build()
    compile_blocks(compiled)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    graphs = []
    for number, smiles in enumerate(BATCHES):
        batch = molecule_batch(smiles)
        losses = [module(batch, seeded(number)).loss for module in (plain, compiled)]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
        gradients = [
            torch.autograd.grad(loss, list(module.parameters()), materialize_grads=True)
            for loss, module in zip(losses, (plain, compiled), strict=True)
        ]
        for name, expected, found in zip(dict(plain.named_parameters()), *gradients, strict=True):
            largest = expected.abs().max().item()
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * largest + 1e-7, msg=name)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs == [graphs[0]] * len(BATCHES)
