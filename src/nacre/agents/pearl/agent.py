"""PEARL while it acts: a posterior over z from the context of the trial, refreshed between episodes (spec 2.3, 2.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Real, UInt8

from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.networks import ActingNetworks, context_rows, context_width, infer_posterior, sample_latent
from nacre.tasks.family import ObservationSize
from nacre.types import Key, Transition


class PearlBelief(NamedTuple):
    """N posteriors, the contexts they come from, and the hypotheses z in force."""

    mean: Float[Array, "n latent"]
    variance: Float[Array, "n latent"]
    latent: Float[Array, "n latent"]
    context: Float[Array, "n capacity context"]
    context_count: Int32[Array, " n"]
    episodes: Int32[Array, " n"]
    """Episodes finished since the posterior was last the prior."""
    begins: Bool[Array, " n"]
    """Whether the next transition is the first of its episode."""
    pictures: UInt8[Array, "n height width stack"] | None = None
    """Where observations are pictures: the latest of them, as the policy saw them, oldest first."""
    features: Float[Array, "n features"] | None = None
    """What the trunk made of them. The context keeps features too: parameters do not change within a trial."""


@dataclass(frozen=True)
class PearlAgent:
    """How PEARL infers its task. One and the same class serves collection and evaluation.

    The posterior is the prior until `exploration_episodes` episodes have ended and the context has `exploration_steps`
    transitions. It is then recomputed at the end of every `refresh_every`-th episode: from all of the context, or from
    `context_draw` random transitions of it (not with a recurrent encoder, which reads all of it, in order).
    Context beyond `capacity` transitions is not kept.
    """

    config: PearlConfig
    observation_size: ObservationSize
    action_size: int
    capacity: int
    exploration_episodes: int
    refresh_every: int = 1
    context_draw: int | None = None
    exploration_steps: int = 0
    keeps_context: bool = True
    """Whether what is observed joins the context. Off where data is collected for the RL losses alone."""

    def begin_trial(self, params: ActingNetworks, key: Key, n: int) -> PearlBelief:
        """Prior beliefs with no context."""
        mean = jnp.zeros((n, self.config.latent_size))
        pictures = features = None
        if not isinstance(self.observation_size, int):
            height, width, colours = self.observation_size
            pictures = jnp.zeros((n, height, width, self.config.frame_stack * colours), jnp.uint8)
            features = jnp.zeros((n, self.config.picture_features))
        return PearlBelief(
            mean=mean,
            variance=mean + (1.0 if self.config.probabilistic_context else 0.0),
            latent=mean,
            context=jnp.zeros((n, self.capacity, context_width(self.config, self.observation_size, self.action_size))),
            context_count=jnp.zeros(n, jnp.int32),
            episodes=jnp.zeros(n, jnp.int32),
            begins=jnp.ones(n, bool),
            pictures=pictures,
            features=features,
        )

    def begin_episode(
        self, params: ActingNetworks, belief: PearlBelief, key: Key, mask: Bool[Array, " n"]
    ) -> PearlBelief:
        """Draws z from the posterior."""
        latent = sample_latent(belief.mean, belief.variance, key)
        return belief._replace(latent=jnp.where(mask[:, None], latent, belief.latent), begins=belief.begins | mask)

    def act(
        self,
        params: ActingNetworks,
        belief: PearlBelief,
        observation: Real[Array, "n *observation"],
        key: Key,
        deterministic: bool,
    ) -> tuple[Float[Array, "n action"], PearlBelief]:
        """pi(a | s, z): its mode, or a draw."""
        if params.trunk is not None:
            pictures = _with_latest(belief, observation)
            observation = params.trunk(pictures)
            belief = belief._replace(pictures=pictures, features=observation)
        inputs = jnp.concatenate([observation, belief.latent], axis=-1)
        action = params.policy.mode(inputs) if deterministic else params.policy.sample(inputs, key).action
        return action, belief

    def observe(
        self, params: ActingNetworks, belief: PearlBelief, transition: Transition, mask: Bool[Array, " n"]
    ) -> PearlBelief:
        """Appends the transition, whose observation is the one last acted on, to the context."""
        if not self.keeps_context:
            return belief._replace(begins=belief.begins & ~mask)
        if params.trunk is not None:
            following = belief._replace(begins=jnp.zeros_like(mask))
            transition = transition._replace(
                observation=belief.features,
                next_observation=params.trunk(_with_latest(following, transition.next_observation)),
            )
        trials = jnp.arange(len(mask))
        slot = jnp.where(mask, belief.context_count, self.capacity)  # out of range is dropped
        rows = context_rows(self.config, transition, belief.begins)
        context = belief.context.at[trials, slot].set(rows, mode="drop")
        count = jnp.minimum(belief.context_count + mask.astype(jnp.int32), self.capacity)
        return belief._replace(context=context, context_count=count, begins=belief.begins & ~mask)

    def end_episode(
        self, params: ActingNetworks, belief: PearlBelief, key: Key, mask: Bool[Array, " n"]
    ) -> PearlBelief:
        """Recomputes the posterior where it is due."""
        episodes = belief.episodes + mask.astype(jnp.int32)
        since = episodes - self.exploration_episodes
        due = mask & (since >= 0) & (since % self.refresh_every == 0)
        due = due & (belief.context_count >= self.exploration_steps)
        refreshed = self.infer(params, belief, key)
        return belief._replace(
            episodes=episodes,
            mean=jnp.where(due[:, None], refreshed.mean, belief.mean),
            variance=jnp.where(due[:, None], refreshed.variance, belief.variance),
        )

    def infer(self, params: ActingNetworks, belief: PearlBelief, key: Key) -> PearlBelief:
        """The posterior of each trial's context, whatever the number of episodes."""
        if self.context_draw is None:
            mask = jnp.arange(self.capacity)[None] < belief.context_count[:, None]
            mean, variance = infer_posterior(params.encoder, self.config, belief.context, mask)
        else:
            shape = (len(belief.context), self.context_draw)
            drawn = jax.random.randint(key, shape, 0, jnp.maximum(belief.context_count, 1)[:, None])
            context = jnp.take_along_axis(belief.context, drawn[:, :, None], axis=1)
            mask = jnp.broadcast_to(belief.context_count[:, None] > 0, shape)
            mean, variance = infer_posterior(params.encoder, self.config, context, mask)
        return belief._replace(mean=mean, variance=variance)

    def commit(self, belief: PearlBelief, key: Key) -> PearlBelief:
        """Draws one z and makes it certain, so that every later episode keeps it."""
        latent = sample_latent(belief.mean, belief.variance, key)
        return belief._replace(mean=latent, variance=jnp.zeros_like(belief.variance))

    def forget(self, belief: PearlBelief) -> PearlBelief:
        """Back to the prior, keeping the context for a later posterior."""
        variance = jnp.full_like(belief.variance, 1.0 if self.config.probabilistic_context else 0.0)
        return belief._replace(
            mean=jnp.zeros_like(belief.mean), variance=variance, episodes=jnp.zeros_like(belief.episodes)
        )


def _with_latest(
    belief: PearlBelief, picture: UInt8[Array, "n height width 3"]
) -> UInt8[Array, "n height width stack"]:
    """The stack that a new picture ends; the first picture of an episode also stands for those before it."""
    assert belief.pictures is not None
    colours = picture.shape[-1]
    older = belief.pictures[..., colours:]
    firsts = jnp.tile(picture, older.shape[-1] // colours)
    return jnp.concatenate([jnp.where(belief.begins[:, None, None, None], firsts, older), picture], axis=-1)


def evaluation_agent(
    config: PearlConfig, observation_size: ObservationSize, action_size: int, horizon: int, capacity: int
) -> PearlAgent:
    """The agent as it is meta-tested, with room for `capacity` transitions of context in a trial.

    With a stochastic test context exploration is counted in steps, so that episodes that terminate early do not cut it
    short (spec 8).
    """
    agent = PearlAgent(config, observation_size, action_size, capacity, config.exploration_episodes)
    if config.test_context == "deterministic":
        return agent
    steps = config.exploration_episodes * horizon
    return replace(agent, exploration_steps=steps, context_draw=random_context(config))


def random_context(config: PearlConfig) -> int | None:
    """How many random transitions a posterior comes from where not all are used; None: all, as their order matters."""
    return None if config.encoder == "recurrent" else config.context_size
