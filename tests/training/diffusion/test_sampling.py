"""Samplers against distributions whose score is known: mixtures and single Gaussians, alone and coupled."""

import math
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor

from molstream.errors import ConfigError
from molstream.training.diffusion.config import SamplerConfig, SDEConfig
from molstream.training.diffusion.draws import normal, symmetric_normal
from molstream.training.diffusion.sampling import SAMPLERS, Diffused, sample
from molstream.training.diffusion.sde import GRAPH_SDES, POSITION_SDES, SDE, SDES
from molstream.training.diffusion.time_grid import SIGNAL_FLOOR, angular, time_grid, uniform
from tests.support.mixtures import F64, Mixture, gaussian, marginal
from tests.support.molecules import seeded
from tests.support.noise import noise

STEPS = {
    "predictor_corrector": 400,
    "euler_maruyama": 250,
    "probability_flow": 100,
    "heun": 20,
    "dpm_solver_pp": 20,
}
SNR = 0.07
NUM = 120_000
"""Samples, for a standard error well below 1 % in every moment."""
EVERY_SDE = sorted({*POSITION_SDES.values(), *GRAPH_SDES.values()}, key=str)
PRIOR_IS_MARGINAL = [config for config in EVERY_SDE if config.maximum > 10.0]
MODERATE = [
    noise("ve", 0.1, 10.0),
    noise("vp", 0.2, 30.0),
    noise("subvp", 0.2, 30.0),
]


def label(config: SDEConfig) -> str:
    return f"{config.kind}-{config.minimum:g}-{config.maximum:g}"


def build(config: SDEConfig) -> SDE:
    return SDES[config.kind](config)


MIXTURE = Mixture(
    torch.tensor([0.4, 0.6]),
    torch.tensor([[-1.5, 0.6], [1.0, -0.4]]),  # centred, as positions are
    torch.tensor([[[0.5, 0.2], [0.2, 0.4]], [[0.3, -0.1], [-0.1, 0.5]]]),
)


def batch_mean_length(x: Tensor) -> Tensor:
    return x.norm(dim=1).mean()


def diffused(
    sde: SDE, generator: torch.Generator, num: int, width: int, dtype: torch.dtype = torch.float32
) -> Diffused:
    return Diffused(sde, lambda: normal((num, width), generator).to(dtype), batch_mean_length)


def draw(
    data: Mixture, sde: SDE, config: SamplerConfig, num: int, start: Tensor | None = None, seed: int = 0
) -> Tensor:
    """``num`` samples of ``data``."""
    part = diffused(sde, seeded(seed), num, data.means.shape[1], data.means.dtype)
    given = None if start is None else (start,)
    return sample(config, [part], lambda x, t: (data.at(sde, t).score(x[0]),), given)[0]


def case(config: SDEConfig, name: str) -> Any:
    """The sampler that takes hundreds of steps runs on some SDEs only, unless there is time."""
    is_slow = name == "predictor_corrector" and config not in MODERATE[:2]
    return pytest.param(config, name, marks=[pytest.mark.slow] * is_slow, id=f"{label(config)}-{name}")


@pytest.mark.parametrize(("config", "name"), [case(*both) for both in product(EVERY_SDE, SAMPLERS)])
def test_recovers_a_mixture(config, name):
    """From the prior where it is the marginal at t = T, from that marginal elsewhere."""
    sde, settings = build(config), SamplerConfig(name=name, num_steps=STEPS[name], snr=SNR, eps=1e-3, denoise=False)
    start = None if config in PRIOR_IS_MARGINAL else MIXTURE.at(sde, 1.0).draw(NUM, seeded(1))
    MIXTURE.at(sde, settings.eps).assert_recovered(draw(MIXTURE, sde, settings, NUM, start), tolerance=0.02)


@pytest.mark.parametrize("config", PRIOR_IS_MARGINAL, ids=label)
def test_recovers_a_mixture_from_its_marginal_where_the_prior_would_do(config):
    sde, settings = build(config), SamplerConfig(name="dpm_solver_pp", num_steps=20, eps=1e-3, denoise=False)
    start = MIXTURE.at(sde, 1.0).draw(NUM, seeded(1))
    MIXTURE.at(sde, settings.eps).assert_recovered(draw(MIXTURE, sde, settings, NUM, start), tolerance=0.02)


@pytest.mark.parametrize("config", [c for c in EVERY_SDE if c.maximum <= 1.0], ids=label)
def test_a_prior_that_is_not_the_marginal_distorts_the_sample_as_documented(config):
    """The ODE maps a Gaussian linearly, so what the prior becomes is known; for VP, N(0, 1) stays N(0, 1)."""
    sde, mean, std = build(config), 0.7, 0.5
    (alpha, sigma), (alpha_0, sigma_0) = marginal(sde, 1.0), marginal(sde, 1e-3)
    ratio = math.hypot(alpha_0 * std, sigma_0) / math.hypot(alpha * std, sigma)
    x = draw(gaussian(mean, std), sde, SamplerConfig(name="heun", num_steps=50, eps=1e-3, denoise=False), 100_000)
    assert x.mean().item() == pytest.approx(alpha_0 * mean - ratio * alpha * mean, abs=0.01)
    assert x.std().item() == pytest.approx(ratio * sde.prior_std, rel=0.01)
    if config.kind == "vp":
        x = draw(gaussian(0.0, 1.0), sde, SamplerConfig(name="heun", num_steps=50), 100_000)
        assert x.std().item() == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("name", SAMPLERS)
def test_coupled_tensors_with_different_sdes_are_recovered_together(name):
    """A Gaussian over (a, b): a in VE, b in VP; both scores depend on both tensors."""
    sdes = [
        build(noise("ve", 0.1, 1000.0)),
        build(noise("vp", 0.2, 30.0)),
    ]
    covariance = torch.tensor([[1.0, 0.5], [0.5, 0.6]])

    def score(x, t):
        (alpha_a, sigma_a), (alpha_b, sigma_b) = (marginal(sde, t) for sde in sdes)
        alpha = torch.tensor([alpha_a, alpha_b])
        noised = alpha * covariance * alpha.unsqueeze(1) + torch.diag(torch.tensor([sigma_a, sigma_b])) ** 2
        return tuple((-torch.cat(x, dim=1) @ torch.linalg.inv(noised)).split(1, dim=1))

    settings = SamplerConfig(name=name, num_steps=STEPS[name], snr=SNR, eps=1e-3)
    generator = seeded()
    x = sample(settings, [diffused(sde, generator, NUM, 1) for sde in sdes], score)
    assert (torch.cov(torch.cat(x, dim=1).T) - covariance).norm() < 0.02 * covariance.norm()


@pytest.mark.parametrize(("name", "order"), [("probability_flow", 1), ("heun", 2), ("dpm_solver_pp", 2)])
@pytest.mark.parametrize("config", MODERATE, ids=label)
def test_error_falls_with_the_order_of_the_method(config, name, order):
    """Against the ODE's solution for a Gaussian: x keeps its distance to the mean in standard deviations."""
    sde, data = build(config), gaussian(0.6, 0.4)
    start = torch.linspace(-2.0, 2.0, 9, dtype=F64).view(-1, 1)

    def error(num_steps: int) -> float:
        settings = SamplerConfig(name=name, num_steps=num_steps, eps=0.01, denoise=False)
        first = time_grid(angular, [sde], num_steps, settings.eps)[0]
        early, late = data.at(sde, settings.eps), data.at(sde, first)
        scale = (early.covariances / late.covariances).sqrt().view(1, 1)
        expected = early.means + scale * (start - late.means)
        return (draw(data, sde, settings, 9, start) - expected).abs().max().item()

    errors = [error(num_steps) for num_steps in (320, 640, 1280)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("kind", ["ve", "vp", "subvp"])
def test_corrector_steps_feed_on_each_other_and_have_the_documented_size(kind):
    """From a wrong start to their equilibrium, whose variance for a Gaussian is v (1 + a^2 snr^2).

    A step h = 2 a^2 (snr |z| / |score|)^2 leaves V = v / (1 - h / (2 v)), and |z| / |score| = v / sqrt(V).
    """
    sde, num, eps, snr = build(noise(kind, 0.2, 3.0)), 20_000, 0.6, 0.5
    data = gaussian(0.0, 1.0)
    alpha, alpha_eps = marginal(sde, 1.0)[0], marginal(sde, eps)[0]
    v = data.at(sde, eps).covariances.item()
    settings = SamplerConfig(
        name="predictor_corrector", num_steps=1, corrector_steps=60, snr=snr, eps=eps, denoise=False
    )
    x = draw(data, sde, settings, num, start=torch.zeros(num, 1, dtype=F64))
    assert x.var().item() == pytest.approx(v * (1.0 + (alpha / alpha_eps * snr) ** 2), rel=0.03)


@pytest.mark.parametrize("name", SAMPLERS)
def test_last_step_is_tweedies_formula(name):
    sde = build(noise("ve", 0.2, 1.0))
    settings = SamplerConfig(name=name, num_steps=5, eps=1e-4)
    state, denoised = (draw(MIXTURE, sde, replace(settings, denoise=denoise), 50) for denoise in (False, True))
    _, sigma = marginal(sde, 1e-4)
    torch.testing.assert_close(denoised, state + sigma**2 * MIXTURE.at(sde, 1e-4).score(state))


def zero_mean_normal(generator: torch.Generator) -> Tensor:
    """Two molecules of one and five atoms, in float64."""
    z = normal((6, 3), generator).double()
    return torch.cat([z[:1] - z[:1], z[1:] - z[1:].mean(0)])


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_stay_in_the_subspace_of_the_noise(name):
    """Zero mean per molecule up to rounding, symmetry exactly; a single atom stays at the centre."""
    generator = seeded()
    parts = [
        Diffused(build(POSITION_SDES["VE"]), lambda: zero_mean_normal(generator), batch_mean_length),
        Diffused(
            build(GRAPH_SDES["VP02"]), lambda: symmetric_normal(2, 5, generator), lambda x: x.norm(dim=(1, 2)).mean()
        ),
    ]
    pos, adj = sample(SamplerConfig(name=name, num_steps=10), parts, lambda x, t: tuple(-x_i for x_i in x))
    assert pos[1:].std() > 0.1
    assert pos[1:].mean(0).abs().max() < 1e-13
    assert (pos[0] == 0).all()
    assert adj.std() > 0.1
    assert torch.equal(adj, adj.transpose(1, 2))
    assert (adj.diagonal(dim1=1, dim2=2) == 0).all()


def test_single_atoms_alone_give_no_nan():
    """The corrector's step is then 0 / 0."""
    part = Diffused(build(POSITION_SDES["VE"]), lambda: torch.zeros(4, 3), batch_mean_length)
    settings = SamplerConfig(name="predictor_corrector", num_steps=5)
    assert (sample(settings, [part], lambda x, t: (-x[0],))[0] == 0).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_noise_is_the_only_randomness(name):
    sde, settings = build(POSITION_SDES["VP02"]), SamplerConfig(name=name, num_steps=10)
    torch.manual_seed(1)
    first, state = draw(MIXTURE, sde, settings, 8), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, draw(MIXTURE, sde, settings, 8))
    assert not torch.equal(first, draw(MIXTURE, sde, settings, 8, seed=1))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", SAMPLERS)
def test_score_gets_falling_times_of_the_type_of_the_sample_and_no_gradients(name):
    seen, told = [], []

    def score(x, t):
        assert not torch.is_grad_enabled()
        assert t.shape == ()
        assert t.dtype == x[0].dtype
        seen.append(t.item())
        return (-x[0],)

    sample(
        SamplerConfig(name=name, num_steps=7, eps=0.01),
        [diffused(build(POSITION_SDES["VE"]), seeded(), 2, 3)],
        score,
        progress=lambda done, total: told.append((done, total)),
    )
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == 1.0
    assert seen[-1] == pytest.approx(0.01)
    assert told == [(done, 7) for done in range(1, 8)]


@pytest.mark.parametrize("spacing", [uniform, angular])
@pytest.mark.parametrize("config", EVERY_SDE, ids=label)
def test_grid_runs_from_the_first_trace_of_signal_to_eps(config, spacing):
    sde = build(config)
    times = time_grid(spacing, [sde], 50, 1e-4)
    assert (times.diff() < 0).all()
    assert times[-1] == 1e-4
    assert times[0] == 1.0 or marginal(sde, times[0])[0] == pytest.approx(SIGNAL_FLOOR)
    places = spacing(times, [sde])
    torch.testing.assert_close(places.diff(), (places[-1] - places[0]).expand(50) / 50, rtol=1e-6, atol=1e-9)


def test_an_end_where_no_signal_is_left_is_refused():
    with pytest.raises(ConfigError, match=r"sampler.eps=0.5: the data have vanished in noise"):
        time_grid(angular, [build(GRAPH_SDES["VP03"])], 10, 0.5)


def test_signal_lost_in_one_tensor_only_is_no_obstacle():
    """At the common start VP with beta to 1000 keeps e^-250 of its data, by which nothing can be divided."""
    sdes = [build(POSITION_SDES["VE02"]), build(GRAPH_SDES["VP03"])]
    generator = seeded()
    parts = [diffused(sde, generator, 50_000, 2) for sde in sdes]
    data = [MIXTURE, Mixture(MIXTURE.weights, -MIXTURE.means, MIXTURE.covariances)]

    def score(x, t):
        return tuple(d.at(sde, t).score(x_i) for d, sde, x_i in zip(data, sdes, x, strict=True))

    x = sample(SamplerConfig(name="dpm_solver_pp", num_steps=50, denoise=False), parts, score)
    for part, d, sde in zip(x, data, sdes, strict=True):
        d.at(sde, 1e-4).assert_recovered(part, tolerance=0.03)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "ddim", "name=ddim: expected one of dpm_solver_pp, heun"),
        ("num_steps", 0, "num_steps=0: expected at least 1"),
        ("corrector_steps", -1, "corrector_steps=-1: expected at least 0"),
        ("snr", 0.0, "snr=0.0: expected a number above 0"),
        ("eps", 1.0, "eps=1.0: expected a number below 1"),
    ],
)
def test_a_wrong_value_is_named(key, value, message):
    with pytest.raises(ConfigError, match=message):
        SamplerConfig(**{key: value})
