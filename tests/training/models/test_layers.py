"""Layers that encoders share, against those of torch_geometric."""

import torch
from torch_geometric.nn.norm import GraphNorm as PygGraphNorm

from molstream.training.models.graph import Incidence
from molstream.training.models.layers import GraphNorm
from tests.support.molecules import seeded

BATCH = torch.repeat_interleave(torch.arange(5), torch.tensor([3, 1, 4, 2, 7]))


def test_graph_norm_and_its_gradients_are_those_of_torch_geometric():
    ours, theirs = GraphNorm(6).double(), PygGraphNorm(6).double()
    for number, parameter in enumerate(ours.parameters()):
        parameter.data += 0.3 * torch.randn(6, generator=seeded(number)).double()
    theirs.load_state_dict(ours.state_dict())
    rows, weight = torch.randn(2, len(BATCH), 6, generator=seeded(9), dtype=torch.float64)
    found = []
    for run, norm in ((lambda x: ours(x, Incidence(BATCH, 5)), ours), (lambda x: theirs(x, BATCH), theirs)):
        x = rows.clone().requires_grad_()
        y = run(x)
        gradients = torch.autograd.grad((y * weight).sum(), [x, *norm.parameters()])
        named = dict(zip(["x", *dict(norm.named_parameters())], gradients, strict=True))
        found.append({"y": y.detach(), **named})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-10, atol=1e-10, msg=name)


def test_graph_norm_computes_in_float32():
    """The variance of large rows would be lost in bfloat16."""
    rows = 100.0 + torch.randn(len(BATCH), 6, generator=seeded())
    norm, molecules = GraphNorm(6), Incidence(BATCH, 5)
    half = rows.bfloat16()
    found = norm(half, molecules)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), norm(half.float(), molecules), rtol=1e-2, atol=1e-2)
