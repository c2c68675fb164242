"""SDEs: marginals against the table of the specification, against their own drift and diffusion, and Monte Carlo."""

import math
from typing import get_args

import pytest
import torch

from molstream.training.diffusion.draws import antithetic_times, normal, symmetric_normal
from molstream.training.diffusion.sde import GRAPH_SDES, POSITION_SDES, SDES, named_sde
from molstream.training.objectives.config import Noise as NoiseName
from tests.support.molecules import seeded
from tests.support.noise import noise

EVERY_SDE = [
    pytest.param(config, id=f"{direction}-{name}")
    for direction, table in (("2d_to_3d", POSITION_SDES), ("3d_to_2d", GRAPH_SDES))
    for name, config in table.items()
]
MODERATE = [
    noise("ve", 0.2, 1.0),
    noise("vp", 0.2, 30.0),
    noise("subvp", 0.2, 30.0),
]
TIMES = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.999], dtype=torch.float64)


def build(config):
    return SDES[config.kind](config)


@pytest.mark.parametrize(
    ("table", "name", "means", "stds"),
    [
        (POSITION_SDES, "VE", [1] * 5, [0.20, 0.30, 0.45, 0.67, 1.00]),
        (GRAPH_SDES, "VE", [1] * 5, [0.10, 0.18, 0.32, 0.56, 1.00]),
        (POSITION_SDES, "VE02", [1] * 5, [0.10, 0.32, 1.0, 3.2, 9.95]),
        (POSITION_SDES, "VE03", [1] * 5, [0.1, 1, 10, 100, 991]),
        (POSITION_SDES, "VP", [1, 0.963, 0.905, 0.829, 0.741], [0.0004, 0.269, 0.426, 0.559, 0.671]),
        (POSITION_SDES, "VP02", [1, 0.61, 0.148, 0.014, 0.0005], [0.0004, 0.79, 0.989, 1, 1]),
        (POSITION_SDES, "VP03", [1, 0, 0, 0, 0], [0.0004, 1, 1, 1, 1]),
    ],
)
def test_marginals_are_those_of_the_specifications_table(table, name, means, stds):
    t = TIMES.clamp(min=1e-6)
    mean, std = build(table[name]).marginal_prob(torch.ones(5, 1, dtype=torch.float64), t)
    # The table is rounded to two or three digits.
    assert mean.flatten().tolist() == pytest.approx(means, abs=6e-3)
    assert std.flatten().tolist() == pytest.approx(stds, rel=2e-2, abs=1e-4)


@pytest.mark.parametrize("config", EVERY_SDE)
def test_marginals_solve_the_moment_equations(config):
    """dm/dt = f(m, t) and dv/dt = 2 f(1, t) v + g(t)^2 for a linear drift, by finite differences of the marginals."""
    sde, h = build(config), 1e-5
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    x = torch.full((50, 1), 1.7, dtype=torch.float64)
    (mean, std), (mean_later, std_later), (mean_before, std_before) = (
        sde.marginal_prob(x, t + shift) for shift in (0.0, h, -h)
    )
    drift, diffusion = sde.sde(mean, t)
    rate = sde.sde(torch.ones_like(x), t)[0]
    torch.testing.assert_close((mean_later - mean_before) / (2 * h), drift, rtol=1e-4, atol=1e-7)
    growth = (std_later**2 - std_before**2) / (2 * h)
    torch.testing.assert_close(growth, 2 * rate * std**2 + diffusion**2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("config", MODERATE, ids=lambda config: config.kind)
def test_simulating_forward_gives_the_marginal(config):
    sde, generator, num_paths = build(config), seeded(), 20_000
    x = torch.full((num_paths, 1), 0.8)
    initial = x
    if config.kind == "ve":
        x = x + config.minimum * normal(x.shape, generator)  # its marginal starts at sigma_min
    steps = 500
    for step in range(steps):
        drift, diffusion = sde.sde(x, torch.full((num_paths,), (step + 0.5) / steps))
        x = x + drift / steps + diffusion * math.sqrt(1 / steps) * normal(x.shape, generator)
    mean, std = sde.marginal_prob(initial[:1], torch.ones(1))
    assert x.mean() == pytest.approx(mean.item(), abs=4 * std.item() / math.sqrt(num_paths))
    assert x.std() == pytest.approx(std.item(), rel=0.03)


@pytest.mark.parametrize("config", MODERATE, ids=lambda config: config.kind)
def test_discretisation_ends_in_the_marginal(config):
    """The mean and variance of the discrete chain, followed exactly."""
    sde = build(config)
    one, mean, variance = torch.ones(1, 1, dtype=torch.float64), 1.0, 0.0
    for i in range(sde.N):
        f, G = sde.discretize(one, torch.tensor([i / (sde.N - 1)], dtype=torch.float64))
        factor = 1.0 + f.item()
        mean, variance = mean * factor, variance * factor**2 + G.item() ** 2
    expected_mean, expected_std = sde.marginal_prob(one, torch.ones(1, dtype=torch.float64))
    assert mean == pytest.approx(expected_mean.item(), rel=0.15)  # e^-7.5 for beta to 30: first order in 1 / N
    assert math.sqrt(variance) == pytest.approx(expected_std.item(), rel=5e-3)


@pytest.mark.parametrize("kind", ["vp", "subvp"])
def test_variance_near_zero_is_exact_in_float32(kind):
    t = torch.tensor([1e-6])
    single = build(noise(kind, 0.2, 1.0)).marginal_prob(torch.ones(1, 1), t)[1]
    double = build(noise(kind, 0.2, 1.0)).marginal_prob(torch.ones(1, 1, dtype=torch.float64), t.double())[1]
    assert single.item() == pytest.approx(double.item(), rel=1e-6)
    if kind == "vp":
        assert single.item() == pytest.approx(4.47e-4, rel=1e-3)


@pytest.mark.parametrize("probability_flow", [False, True])
@pytest.mark.parametrize("config", MODERATE, ids=lambda config: config.kind)
def test_reverse_recovers_a_gaussian(config, probability_flow):
    """Data N(1, 0.5^2): its score at every t is known, so going back from t = 1 must give it again."""
    sde, generator, num_paths, steps = build(config), seeded(1), 20_000, 500

    def moments(t):
        factor, std = sde.marginal_prob(torch.ones(len(t), 1), t)
        return factor, (0.25 * factor**2 + std**2)

    def score(x, t):
        mean, variance = moments(t)
        return -(x - mean) / variance

    reverse = sde.reverse(score, probability_flow)
    mean, variance = moments(torch.ones(1))
    x = mean + variance.sqrt() * normal((num_paths, 1), generator)
    for step in range(steps):
        drift, diffusion = reverse.sde(x, torch.full((num_paths,), 1.0 - (step + 0.5) / steps))
        x = x - drift / steps + diffusion * math.sqrt(1 / steps) * normal(x.shape, generator)
    mean, variance = moments(torch.zeros(1))
    assert x.mean().item() == pytest.approx(mean.item(), abs=0.02)
    assert x.var().item() == pytest.approx(variance.item(), rel=0.05)


def test_reverse_discretisation_is_the_reverse_diffusion_update():
    sde = build(noise("vp", 0.2, 30.0))
    x, t = torch.randn(4, 3, generator=seeded()), torch.full((4,), 0.5)
    f, G = sde.discretize(x, t)
    reverse_f, reverse_G = sde.reverse(lambda x, t: -x).discretize(x, t)
    torch.testing.assert_close(reverse_f, f + G**2 * x)
    torch.testing.assert_close(reverse_G, G)


@pytest.mark.parametrize("config", EVERY_SDE)
def test_coefficients_broadcast_over_any_shape(config):
    sde, t = build(config), torch.tensor([0.3, 0.7])
    row = sde.marginal_prob(torch.ones(2, 3), t)
    dense = sde.marginal_prob(torch.ones(2, 4, 4), t)
    assert dense[1].shape == (2, 1, 1)
    for in_row, in_dense in zip(row, dense, strict=True):
        torch.testing.assert_close(in_row[:, 0], in_dense[:, 0, 0])
    assert sde.sde(torch.ones(2, 4, 4), t)[0].shape == (2, 4, 4)
    assert sde.discretize(torch.ones(2, 4, 4), t)[0].shape == (2, 4, 4)
    f, G = sde.discretize(torch.ones(2, 1), torch.tensor([0.0, 1.0]))
    assert f.isfinite().all()
    assert G.isfinite().all()


def test_prior_has_the_final_spread():
    for config in MODERATE:
        sample = build(config).prior_sampling((20_000,), seeded())
        assert sample.std().item() == pytest.approx(config.maximum if config.kind == "ve" else 1.0, rel=0.03)


@pytest.mark.parametrize("table", [POSITION_SDES, GRAPH_SDES])
def test_every_setting_can_be_configured(table):
    assert set(table) == set(get_args(NoiseName))
    for name in table:
        assert named_sde(table, name).config == table[name]


@pytest.mark.parametrize("num_graphs", [1, 2, 3, 256])
def test_times_are_antithetic(num_graphs):
    t = antithetic_times(num_graphs, seeded())
    assert t.shape == (num_graphs,)
    assert (t >= 1e-6).all()
    assert (t < 1).all()
    steps, shift = torch.round((t - 1e-6) / (1 - 1e-6) * 1000).long(), num_graphs // 2 + 1
    assert torch.equal(steps[shift:], 999 - steps[: num_graphs - shift])
    assert torch.equal(t, antithetic_times(num_graphs, seeded()))


def test_symmetric_noise():
    noise = symmetric_normal(200, 8, seeded())
    assert torch.equal(noise, noise.transpose(1, 2))
    assert (noise.diagonal(dim1=1, dim2=2) == 0).all()
    upper = noise[:, *torch.triu_indices(8, 8, 1)]
    assert upper.mean().item() == pytest.approx(0.0, abs=0.05)
    assert upper.std().item() == pytest.approx(1.0, abs=0.03)
