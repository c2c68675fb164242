"""Mixtures of Gaussians, whose score is known in closed form at every diffusion time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from molstream.training.diffusion.draws import normal
from molstream.training.diffusion.sde import SDE

F64 = torch.float64


def marginal(sde: SDE, t: float | Tensor) -> tuple[float, float]:
    """Return alpha and sigma of an SDE at ``t``."""
    alpha, sigma = sde.marginal_prob(torch.ones(1, dtype=F64), torch.as_tensor(t, dtype=F64).view(1))
    return alpha.item(), sigma.item()


@dataclass(frozen=True)
class Mixture:
    """Gaussians in d dimensions: weights [k], means [k, d], covariances [k, d, d]."""

    weights: Tensor
    """[k]: weights of the modes, with sum 1."""
    means: Tensor
    """[k, d]: means of the modes."""
    covariances: Tensor
    """[k, d, d]: covariances of the modes."""

    def at(self, sde: SDE, t: float | Tensor) -> "Mixture":
        """Compute the marginal mixture at time ``t``."""
        alpha, sigma = marginal(sde, t)
        noise = sigma**2 * torch.eye(self.means.shape[1]).to(self.means)
        return Mixture(self.weights, alpha * self.means, alpha**2 * self.covariances + noise)

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw ``num`` samples, [num, d]."""
        mode = torch.multinomial(self.weights, num, replacement=True, generator=generator)
        z = normal((num, self.means.shape[1]), generator).to(self.means)
        return self.means[mode] + (torch.linalg.cholesky(self.covariances)[mode] @ z.unsqueeze(2)).squeeze(2)

    def score_and_modes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradient of log p [n, d], and the probability of each mode given x [n, k]."""
        num_modes, width = self.means.shape
        precision = torch.linalg.inv(self.covariances)
        towards = (precision @ self.means.unsqueeze(2)).view(num_modes, width, 1)
        pull = towards - (precision.reshape(-1, width) @ x.T).view(num_modes, width, -1)
        constant = self.weights.log() - 0.5 * (
            torch.logdet(self.covariances) + (self.means * towards.squeeze(2)).sum(1)
        )
        mode = (constant.unsqueeze(1) + 0.5 * ((pull + towards) * x.T).sum(1)).softmax(0)
        return (mode.unsqueeze(1) * pull).sum(0).T, mode.T

    def score(self, x: Tensor) -> Tensor:
        """Compute the score [n, d] in chunks that fit into the cache, four times as fast as at once."""
        return torch.cat([self.score_and_modes(piece)[0] for piece in x.split(20_000)])

    def assert_recovered(self, x: Tensor, tolerance: float) -> None:
        """Assert that samples ``x`` have this mixture's weights, means and covariances up to ``tolerance``."""
        _, mode = self.score_and_modes(x)
        mean = self.weights @ self.means
        offset = self.means - mean
        covariance = torch.einsum("k,kij->ij", self.weights, self.covariances + offset[:, :, None] * offset[:, None, :])
        spread = covariance.trace().sqrt()
        assert ((mode.mean(0) - self.weights) / self.weights).abs().max() < tolerance
        assert (x.mean(0) - mean).norm() < tolerance * spread
        assert (torch.cov(x.T) - covariance).norm() < tolerance * covariance.norm()
        for k, (mode_mean, mode_covariance) in enumerate(zip(self.means, self.covariances, strict=True)):
            share = mode[:, k : k + 1] / mode[:, k].sum()
            deviation = x - mode_mean
            assert (share * deviation).sum(0).norm() < tolerance * spread
            found = (share * deviation).T @ deviation
            assert (found - mode_covariance).norm() < tolerance * mode_covariance.norm()


def gaussian(mean: float, std: float) -> Mixture:
    """Create a one-dimensional Gaussian in float64."""
    return Mixture(
        torch.ones(1, dtype=F64), torch.full((1, 1), mean, dtype=F64), torch.full((1, 1, 1), std**2, dtype=F64)
    )
