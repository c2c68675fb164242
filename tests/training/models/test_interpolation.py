"""Functions read off a table against themselves, in float64, and the transpose against the matrix."""

import pytest
import torch

from molstream.training.models.config import SchNetConfig
from molstream.training.models.interpolation import Interpolation, grid, num_nodes
from molstream.training.models.layers import cosine_envelope, gaussian_basis
from molstream.training.models.schnet import Interaction
from tests.support.molecules import seeded


def filters(interaction: Interaction, distance: torch.Tensor, config: SchNetConfig) -> torch.Tensor:
    rbf = gaussian_basis(distance, config.cutoff, config.num_gaussians)
    return interaction.filters(rbf, cosine_envelope(distance, config.cutoff).unsqueeze(1))


@pytest.mark.parametrize(("growth", "tolerance"), [(1.0, 1e-13), (10.0, 1e-10)])
@pytest.mark.parametrize(("cutoff", "num_gaussians"), [(10.0, 51), (4.0, 11), (7.3, 24)])
@torch.no_grad()
def test_filters_are_the_same_to_rounding(cutoff, num_gaussians, growth, tolerance):
    config = SchNetConfig(cutoff=cutoff, num_gaussians=num_gaussians)
    torch.manual_seed(0)
    interaction = Interaction(config).double()
    interaction.filter[0].weight *= growth
    inside = cutoff * torch.rand(20_000, generator=seeded(), dtype=torch.float64)
    distance = torch.cat([torch.tensor([0.0, 1e-9, cutoff], dtype=torch.float64), inside])
    width = cutoff / (num_gaussians - 1)
    table = filters(interaction, grid(cutoff, width, like=distance), config)
    expected = filters(interaction, distance, config)
    error = (Interpolation(distance, cutoff, width).values(table) - expected).abs().max() / expected.abs().max()
    assert error < tolerance


def test_every_distance_up_to_the_end_is_on_the_grid():
    for end, gaussians in ((10.0, 51), (4.0, 11), (7.3, 24), (5.0, 8), (6.1, 100)):
        width = end / (gaussians - 1)
        for dtype in (torch.float32, torch.float64):
            table = torch.ones(num_nodes(end, width), 1, dtype=dtype)
            ends = torch.tensor([0.0, end], dtype=dtype)
            torch.testing.assert_close(Interpolation(ends, end, width).values(table), torch.ones(2, 1, dtype=dtype))


def test_transposed_is_the_transpose():
    distance = torch.tensor([0.0, 0.37, 0.37, 1.9, 2.0], dtype=torch.float64)
    interpolation, m = Interpolation(distance, 2.0, 0.5), num_nodes(2.0, 0.5)
    matrix = interpolation.values(torch.eye(m, dtype=torch.float64))
    rows = torch.randn(5, 3, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(interpolation.transposed(rows), matrix.T @ rows)
    torch.testing.assert_close(matrix.sum(1), torch.ones(5, dtype=torch.float64))
