"""MELD while it acts: each frame is filtered as it is seen, over the whole trial (spec meld 1.6, 2.2).

To act is to see a frame, so the belief changes in `act`. The last frame of an episode, in which nobody acts, is seen
when the episode ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, UInt8

from nacre.agents.meld.config import MeldConfig
from nacre.agents.meld.losses import ActingNetworks
from nacre.agents.meld.model import Inferred, standard_normal
from nacre.interfaces import Agent, select
from nacre.nn.gaussian import noise_of_trials
from nacre.tasks.family import Sizes
from nacre.types import Key, Transition, Tree, short_repr


class MeldBelief(NamedTuple):
    """What N trials believe, and what led to the frame that they see next."""

    inferred: Inferred
    """Of the latest frame; it means nothing before the first."""
    begun: Bool[Array, " n"]
    """Whether a frame was seen."""
    action: Float[Array, "n action"]
    """The latest; 0 after a reset."""
    reward: Float[Array, " n"]
    """The one that is seen beside the next frame; 0 after a reset."""
    picture: UInt8[Array, "n height width 3"]
    """Of the next frame, as `observe` was given it."""

    __repr__ = short_repr


@dataclass(frozen=True)
class MeldAgent(Agent):
    """π(a | μ1, σ1, μ2, σ2)."""

    config: MeldConfig
    sizes: Sizes

    @property
    def sees_sparse_reward(self) -> bool:
        return self.config.context_reward == "sparse"

    def begin_trial(
        self, params: ActingNetworks, keys: Key, tasks: Float32[Array, "n parameters"] | None
    ) -> MeldBelief:
        """Nothing was seen."""
        n, first, second = len(keys), self.config.first_latent_size, self.config.second_latent_size
        return MeldBelief(
            Inferred(jnp.zeros((n, first + second)), standard_normal((n, first)), standard_normal((n, second))),
            begun=jnp.zeros(n, bool),
            action=jnp.zeros((n, self.sizes.action)),
            reward=jnp.zeros(n),
            picture=jnp.zeros((n, *self.sizes.observation_shape), jnp.uint8),
        )

    def begin_episode(
        self, params: ActingNetworks, belief: MeldBelief, keys: Key, mask: Bool[Array, " n"]
    ) -> MeldBelief:
        """What is believed stays. No action led to the first frame, and no reward came with it."""
        reset = belief._replace(action=jnp.zeros_like(belief.action), reward=jnp.zeros_like(belief.reward))
        return select(mask, reset, belief)

    def act(
        self,
        params: ActingNetworks,
        belief: MeldBelief,
        observation: UInt8[Array, "n height width 3"],
        keys: Key,
        mask: Bool[Array, " n"],
        deterministic: bool,
    ) -> tuple[Float[Array, "n action"], MeldBelief]:
        """Filters the frame, and acts on what is then believed."""
        filter_keys, policy_keys = _split(keys)
        seen = self._filter(params, belief, observation, filter_keys)
        action = params.policy.act(seen.inferred.features, policy_keys, deterministic)
        return action, select(mask, seen, belief)

    def observe(
        self, params: ActingNetworks, belief: MeldBelief, transition: Transition, mask: Bool[Array, " n"]
    ) -> MeldBelief:
        """Remembers what the next frame is filtered with."""
        rewards = {"dense": transition.reward, "sparse": transition.sparse_reward}
        reward = rewards.get(self.config.context_reward, jnp.zeros_like(transition.reward))
        remembered = belief._replace(action=transition.action, reward=reward, picture=transition.next_observation)
        return select(mask, remembered, belief)

    def end_episode(self, params: ActingNetworks, belief: MeldBelief, keys: Key, mask: Bool[Array, " n"]) -> MeldBelief:
        """Filters the last frame, which nobody acts in."""
        return select(mask, self._filter(params, belief, belief.picture, keys), belief)

    def _filter(
        self, params: ActingNetworks, belief: MeldBelief, pictures: UInt8[Array, "n height width 3"], keys: Key
    ) -> MeldBelief:
        """What is believed after the next frame."""
        model = params.model
        noise = noise_of_trials(keys, self.config.latent_size)
        frame = model.embed(pictures, belief.reward)
        later = model.advance(belief.inferred.latent, belief.action, frame, noise)
        inferred = select(belief.begun, later, model.begin(frame, noise))
        return belief._replace(inferred=inferred, begun=jnp.ones_like(belief.begun))


class Nothing(NamedTuple):
    """The belief of an agent that looks at nothing."""

    trial: Float[Array, " n"]


@dataclass(frozen=True)
class RandomAgent(Agent):
    """Uniform actions, before anything is learnt."""

    actions: int

    def begin_trial(self, params: Tree, keys: Key, tasks: Float32[Array, "n parameters"] | None) -> Nothing:
        return Nothing(jnp.zeros(len(keys)))

    def act(
        self,
        params: Tree,
        belief: Nothing,
        observation: UInt8[Array, "n height width 3"],
        keys: Key,
        mask: Bool[Array, " n"],
        deterministic: bool,
    ) -> tuple[Float[Array, "n action"], Nothing]:
        draw = jax.vmap(lambda key: jax.random.uniform(key, (self.actions,), minval=-1, maxval=1))
        return draw(keys), belief


def _split(keys: Key) -> tuple[Key, Key]:
    """Two keys of each."""
    both = jax.vmap(jax.random.split)(keys)
    return both[:, 0], both[:, 1]
