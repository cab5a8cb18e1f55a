"""CEMRL while it acts: z anew at each step, from the latest transitions (spec cemrl-dmrlad 1.10).

Parameters do not change within a trial, so a transition is encoded once, when it is observed. To act is to combine the
window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from nacre.agents.cemrl.config import CemrlConfig
from nacre.agents.cemrl.networks import ActingNetworks, Inferred, padded, window_rows, zero_transition
from nacre.interfaces import select
from nacre.tasks.family import Sizes
from nacre.types import Key, Transition, Tree, short_repr


class CemrlBelief(NamedTuple):
    """The windows of N trials, and what was last made of them."""

    factors: Tree
    """The latest transitions, encoded, oldest first; leading axes (N, T). The first `T - count` mean nothing."""
    count: Int32[Array, " n"]
    """Transitions in the window, at most T."""
    latent: Float[Array, "n latent"]
    """z of the last action."""
    class_probabilities: Float[Array, "n K"]
    """q(y | window) of the last action."""

    __repr__ = short_repr


@dataclass(frozen=True)
class CemrlAgent:
    """pi(a | s, z), with z from a window of the latest transitions."""

    config: CemrlConfig
    sizes: Sizes

    @property
    def sees_sparse_reward(self) -> bool:
        return False

    @property
    def sees_task(self) -> bool:
        return False

    def begin_trial(
        self, params: ActingNetworks, keys: Key, tasks: Float32[Array, "n parameters"] | None
    ) -> CemrlBelief:
        """Empty windows."""
        n, config = len(keys), self.config
        nothing = params.encoder.factors(window_rows(zero_transition(self.sizes)))
        return CemrlBelief(
            factors=jax.tree.map(lambda leaf: jnp.zeros((n, config.window, *leaf.shape[1:])), nothing),
            count=jnp.zeros(n, jnp.int32),
            latent=jnp.zeros((n, config.latent_size)),
            class_probabilities=jnp.full((n, config.classes), 1 / config.classes),
        )

    def begin_episode(
        self, params: ActingNetworks, belief: CemrlBelief, keys: Key, mask: Bool[Array, " n"]
    ) -> CemrlBelief:
        """Empties the windows, unless they go on across episodes."""
        if self.config.window_within == "trial":
            return belief
        return belief._replace(count=jnp.where(mask, 0, belief.count))

    def act(
        self,
        params: ActingNetworks,
        belief: CemrlBelief,
        observation: Float[Array, "n observation"],
        keys: Key,
        mask: Bool[Array, " n"],
        deterministic: bool,
    ) -> tuple[Float[Array, "n action"], CemrlBelief]:
        """Infers z and acts on it."""
        inferred = self.infer(params, belief, keys)
        features = jnp.concatenate([observation, inferred.latent], axis=-1)
        remembered = belief._replace(latent=inferred.latent, class_probabilities=inferred.class_probabilities)
        return params.policy.act(features, keys, deterministic), select(mask, remembered, belief)

    def infer(self, params: ActingNetworks, belief: CemrlBelief, keys: Key) -> Inferred:
        """z and the class of each window; `keys` shuffle it, if windows are permuted."""
        length = self.config.window
        factors, shown = belief.factors, jnp.arange(length)[None] >= length - belief.count[:, None]
        if self.config.padding == "published":
            # Zeros that are not normalised, which is what the public code did here and not in training.
            nothing = params.encoder.factors(window_rows(zero_transition(self.sizes)))
            factors, shown = padded(factors, shown, nothing), jnp.ones_like(shown)
        if self.config.permute_windows:
            order = jax.vmap(lambda key: jax.random.permutation(jax.random.fold_in(key, 1), length))(keys)
            factors, shown = jax.tree.map(
                lambda leaf: jax.vmap(lambda row, index: row[index])(leaf, order), (factors, shown)
            )
        return params.encoder.infer(factors, shown)

    def observe(
        self, params: ActingNetworks, belief: CemrlBelief, transition: Transition, mask: Bool[Array, " n"]
    ) -> CemrlBelief:
        """Encodes the transition, which takes the place of the oldest."""
        new = params.encoder.factors(window_rows(params.normaliser(transition)))
        pushed = jax.tree.map(lambda old, row: jnp.concatenate([old[:, 1:], row[:, None]], axis=1), belief.factors, new)
        count = jnp.minimum(belief.count + 1, self.config.window)
        return select(mask, belief._replace(factors=pushed, count=count), belief)

    def end_episode(
        self, params: ActingNetworks, belief: CemrlBelief, keys: Key, mask: Bool[Array, " n"]
    ) -> CemrlBelief:
        return belief
