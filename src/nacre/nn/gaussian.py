"""Diagonal Gaussians as pairs of mean and variance: their product and their KL divergence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nacre.types import Key

MINIMUM_VARIANCE = 1e-7


def product_of_gaussians(
    means: Float[Array, "*batch factors latent"],
    raw_variances: Float[Array, "*batch factors latent"],
    mask: Bool[Array, "*batch factors"] | None = None,
    with_prior: bool = False,
) -> tuple[Float[Array, "*batch latent"], Float[Array, "*batch latent"]]:
    """Mean and variance of the normalised product of diagonal Gaussians (PEARL, section 4.1; spec pearl 1.2).

    A factor's variance is softplus(raw_variance), at least 1e-7. Factors whose mask is False take no part; a product
    of no factors is the prior N(0, 1). The prior is a factor of every product if `with_prior`, and not otherwise.
    """
    precisions = 1 / jnp.maximum(jax.nn.softplus(raw_variances), MINIMUM_VARIANCE)
    if mask is not None:
        precisions = jnp.where(mask[..., None], precisions, 0)
    total = precisions.sum(axis=-2)
    weighted = (precisions * means).sum(axis=-2)
    if with_prior:
        total = total + 1
    elif mask is not None:
        total = jnp.where(mask.any(axis=-1, keepdims=True), total, 1)
    return weighted / total, 1 / total


def kl_to_standard_normal(
    mean: Float[Array, "*batch latent"], variance: Float[Array, "*batch latent"]
) -> Float[Array, "*batch"]:
    """KL( N(mean, variance) || N(0, 1) ), summed over dimensions, in nats."""
    return 0.5 * (variance + mean**2 - 1 - jnp.log(variance)).sum(axis=-1)


def draw_normal(
    mean: Float[Array, "*batch latent"], variance: Float[Array, "*batch latent"], noise: Float[Array, "*batch latent"]
) -> Float[Array, "*batch latent"]:
    """Reparameterised draw from N(mean, variance), of standard normal noise."""
    return mean + jnp.sqrt(variance) * noise


def noise_of_trials(keys: Key, size: int) -> Float[Array, "n size"]:
    """Standard normal noise, each row from the key of its trial."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)
