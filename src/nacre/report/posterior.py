"""What PEARL infers in the course of a trial: the posteriors over z from the first transitions of its context."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from nacre.agents.pearl.agent import PearlAgent, PearlBelief
from nacre.agents.pearl.networks import ActingNetworks
from nacre.types import Key


class Posteriors(NamedTuple):
    """Diagonal Gaussians over z, of n trials at some points of their course."""

    transitions: Int[np.ndarray, "points n"]
    """How many transitions of the trial each comes from."""
    mean: Float32[np.ndarray, "points n latent"]
    variance: Float32[np.ndarray, "points n latent"]


def posteriors_after(
    agent: PearlAgent, params: ActingNetworks, belief: PearlBelief, transitions: Int[np.ndarray, "points n"]
) -> Posteriors:
    """The posteriors that the agent would have inferred after so many transitions of its trials.

    Args:
        agent: the agent that played. One that draws `context_draw` transitions for a posterior draws them anew.
        params: its networks.
        belief: its beliefs at the end of n trials.
        transitions: 0 gives the prior.
    """
    key = jax.random.key(0)
    mean, variance = _infer(agent, params, belief, jnp.asarray(transitions, jnp.int32), key)
    return Posteriors(transitions, np.asarray(mean), np.asarray(variance))


@functools.partial(jax.jit, static_argnames="agent")
def _infer(
    agent: PearlAgent, params: ActingNetworks, belief: PearlBelief, transitions: Int32[Array, "points n"], key: Key
) -> tuple[Float[Array, "points n latent"], Float[Array, "points n latent"]]:
    def infer(point: tuple[Int32[Array, " n"], Key]) -> tuple[Float[Array, "n latent"], Float[Array, "n latent"]]:
        count, point_key = point
        inferred = agent.infer(params, belief._replace(context_count=count), point_key)
        return inferred.mean, inferred.variance

    return jax.lax.map(infer, (transitions, jax.random.split(key, len(transitions))))
