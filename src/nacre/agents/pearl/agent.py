"""PEARL while it acts: a posterior over z from the context of the trial, refreshed between episodes (spec 2.3, 2.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Real, UInt8

from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.networks import (
    ActingNetworks,
    context_rows,
    context_width,
    encoder_class,
    infer_posterior,
    reward_column,
)
from nacre.nn.convolution import stack_with
from nacre.nn.gaussian import draw_normal, noise_of_trials
from nacre.tasks.family import Sizes
from nacre.types import Key, Transition, short_repr


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
    """If observations are pictures: the latest of them, as the policy saw them, oldest first."""
    features: Float[Array, "n features"] | None = None
    """What the trunk made of them. The context keeps features too: parameters do not change within a trial."""
    steps: Int32[Array, " n"] | None = None
    """If z is inferred within episodes: steps of the current one."""
    noise: Float[Array, "n latent"] | None = None
    """If each z of an episode has the same noise: that noise."""

    __repr__ = short_repr


@dataclass(frozen=True)
class PearlAgent:
    """How PEARL infers its task. One and the same class serves collection and evaluation.

    The posterior is the prior until `exploration_episodes` episodes have ended and the context has `exploration_steps`
    transitions. It is then recomputed at the end of every `refresh_every`-th episode: from all of the context, or from
    `context_draw` random transitions of it (not with contexts in order: see `random_context`).
    Context beyond `capacity` transitions is not kept.

    With the configuration's `infer_every` the same is done every so many steps of an episode, and z is drawn anew, with
    the noise of the episode's first z if `latent_noise` is kept. No episodes are waited for then.
    """

    config: PearlConfig
    sizes: Sizes
    capacity: int
    exploration_episodes: int | None
    """None: the posterior stays as it is."""
    refresh_every: int = 1
    context_draw: int | None = None
    exploration_steps: int = 0
    keeps_context: bool = True
    """Whether what is observed joins the context. False if data are collected for the RL losses alone."""

    @property
    def sees_sparse_reward(self) -> bool:
        return self.config.sparse_reward_in_context

    @property
    def sees_task(self) -> bool:
        return False

    def begin_trial(
        self, params: ActingNetworks, keys: Key, tasks: Float32[Array, "n parameters"] | None
    ) -> PearlBelief:
        """Prior beliefs with no context."""
        n = len(keys)
        mean = jnp.zeros((n, self.config.latent_size))
        pictures = features = None
        if not isinstance(self.sizes.observation, int):
            height, width, colours = self.sizes.observation
            pictures = jnp.zeros((n, height, width, self.config.frame_stack * colours), jnp.uint8)
            features = jnp.zeros((n, self.config.picture_features))
        return PearlBelief(
            mean=mean,
            variance=mean + (1.0 if self.config.probabilistic_context else 0.0),
            latent=mean,
            context=jnp.zeros((n, self.capacity, context_width(self.config, self.sizes))),
            context_count=jnp.zeros(n, jnp.int32),
            episodes=jnp.zeros(n, jnp.int32),
            begins=jnp.ones(n, bool),
            pictures=pictures,
            features=features,
            steps=jnp.zeros(n, jnp.int32) if self.config.infer_every else None,
            noise=mean if self.config.latent_noise == "kept" else None,
        )

    def begin_episode(
        self, params: ActingNetworks, belief: PearlBelief, keys: Key, mask: Bool[Array, " n"]
    ) -> PearlBelief:
        """Draws z from the posterior."""
        noise = noise_of_trials(keys, self.config.latent_size)
        if belief.noise is not None:
            belief = belief._replace(noise=jnp.where(mask[:, None], noise, belief.noise))
        belief = self._draw(belief, noise, mask)
        steps = None if belief.steps is None else jnp.where(mask, 0, belief.steps)
        return belief._replace(begins=belief.begins | mask, steps=steps)

    def act(
        self,
        params: ActingNetworks,
        belief: PearlBelief,
        observation: Real[Array, "n *observation"],
        keys: Key,
        mask: Bool[Array, " n"],
        deterministic: bool,
    ) -> tuple[Float[Array, "n action"], PearlBelief]:
        """pi(a | s, z): its mode, or a draw. Before that, z is inferred anew if it is due within the episode."""
        if belief.steps is not None:
            belief = self._within_episode(params, belief, keys, mask)
        if params.trunk is not None:
            assert belief.pictures is not None
            assert belief.features is not None
            pictures = stack_with(belief.pictures, belief.begins, observation)
            observation = params.trunk(pictures)
            belief = belief._replace(
                pictures=jnp.where(mask[:, None, None, None], pictures, belief.pictures),
                features=jnp.where(mask[:, None], observation, belief.features),
            )
        inputs = jnp.concatenate([observation, belief.latent], axis=-1)
        return params.policy.act(inputs, keys, deterministic), belief

    def observe(
        self, params: ActingNetworks, belief: PearlBelief, transition: Transition, mask: Bool[Array, " n"]
    ) -> PearlBelief:
        """Appends the transition, whose observation is the one last acted on, to the context."""
        if belief.steps is not None:
            belief = belief._replace(steps=belief.steps + mask.astype(jnp.int32))
        if not self.keeps_context:
            return belief._replace(begins=belief.begins & ~mask)
        if params.trunk is not None:
            assert belief.pictures is not None
            following = stack_with(belief.pictures, jnp.zeros_like(mask), transition.next_observation)
            transition = transition._replace(
                observation=belief.features,
                next_observation=params.trunk(following),
            )
        trials = jnp.arange(len(mask))
        slot = jnp.where(mask, belief.context_count, self.capacity)  # out of range is dropped
        reward_before = None
        if self.config.reward_change_in_context:
            column = reward_column(self.config, self.sizes)
            reward_before = belief.context[trials, jnp.maximum(belief.context_count - 1, 0), column]
        rows = context_rows(self.config, transition, belief.begins, reward_before)
        context = belief.context.at[trials, slot].set(rows, mode="drop")
        count = jnp.minimum(belief.context_count + mask.astype(jnp.int32), self.capacity)
        return belief._replace(context=context, context_count=count, begins=belief.begins & ~mask)

    def end_episode(
        self, params: ActingNetworks, belief: PearlBelief, keys: Key, mask: Bool[Array, " n"]
    ) -> PearlBelief:
        """Recomputes the posterior if it is due."""
        episodes = belief.episodes + mask.astype(jnp.int32)
        belief = belief._replace(episodes=episodes)
        if self.exploration_episodes is None:
            return belief
        since = episodes - self.exploration_episodes
        due = mask & (since >= 0) & (since % self.refresh_every == 0)
        return self._refresh(params, belief, keys, due & (belief.context_count >= self.exploration_steps))

    def _within_episode(
        self, params: ActingNetworks, belief: PearlBelief, keys: Key, mask: Bool[Array, " n"]
    ) -> PearlBelief:
        """A new posterior, if there are any, and a new z in the trials that are due."""
        assert belief.steps is not None
        due = mask & (belief.steps > 0) & (belief.steps % self.config.infer_every == 0)
        infer_keys, latent_keys = (
            jax.vmap(lambda key, number=number: jax.random.fold_in(key, number))(keys) for number in (1, 2)
        )

        def infer_and_draw() -> PearlBelief:
            inferred = belief if self.exploration_episodes is None else self._refresh(params, belief, infer_keys, due)
            kept = inferred.noise
            noise = noise_of_trials(latent_keys, self.config.latent_size) if kept is None else kept
            return self._draw(inferred, noise, due)

        return jax.lax.cond(due.any(), infer_and_draw, lambda: belief)

    def _refresh(self, params: ActingNetworks, belief: PearlBelief, keys: Key, mask: Bool[Array, " n"]) -> PearlBelief:
        """The posteriors of some trials are inferred anew."""
        refreshed = self.infer(params, belief, keys)
        return belief._replace(
            mean=jnp.where(mask[:, None], refreshed.mean, belief.mean),
            variance=jnp.where(mask[:, None], refreshed.variance, belief.variance),
        )

    def _draw(self, belief: PearlBelief, noise: Float[Array, "n latent"], mask: Bool[Array, " n"]) -> PearlBelief:
        """A z from the posterior, in some trials."""
        latent = draw_normal(belief.mean, belief.variance, noise)
        return belief._replace(latent=jnp.where(mask[:, None], latent, belief.latent))

    def infer(self, params: ActingNetworks, belief: PearlBelief, keys: Key) -> PearlBelief:
        """The posterior of each trial's context, whatever the number of episodes."""
        context, count = belief.context, belief.context_count[:, None]
        mask = jnp.arange(self.capacity)[None] < count
        if self.context_draw is not None:
            size = self.context_draw
            drawn = jax.vmap(lambda key, most: jax.random.randint(key, (size,), 0, most))(
                keys, jnp.maximum(belief.context_count, 1)
            )
            context = jnp.take_along_axis(context, drawn[:, :, None], axis=1)
            mask = jnp.broadcast_to(count > 0, drawn.shape)
        mean, variance = infer_posterior(params.encoder, self.config, context, mask)
        return belief._replace(mean=mean, variance=variance)

    def commit(self, belief: PearlBelief, keys: Key) -> PearlBelief:
        """Draws one z and makes it certain, so that every later episode keeps it."""
        latent = draw_normal(belief.mean, belief.variance, noise_of_trials(keys, self.config.latent_size))
        return belief._replace(mean=latent, variance=jnp.zeros_like(belief.variance))

    def forget(self, belief: PearlBelief) -> PearlBelief:
        """Back to the prior, keeping the context for a later posterior."""
        variance = jnp.full_like(belief.variance, 1.0 if self.config.probabilistic_context else 0.0)
        return belief._replace(
            mean=jnp.zeros_like(belief.mean), variance=variance, episodes=jnp.zeros_like(belief.episodes)
        )


def evaluation_agent(config: PearlConfig, sizes: Sizes, capacity: int) -> PearlAgent:
    """The agent as it is meta-tested, with room for `capacity` transitions of context in a trial.

    With a stochastic test context exploration is counted in steps, so that episodes that terminate early do not cut it
    short (spec 8).
    """
    agent = PearlAgent(config, sizes, capacity, 0 if config.infer_every else config.exploration_episodes)
    if config.test_context == "deterministic":
        return agent
    steps = 0 if config.infer_every else config.exploration_episodes * sizes.horizon
    return replace(agent, exploration_steps=steps, context_draw=random_context(config))


def random_context(config: PearlConfig) -> int | None:
    """How many random transitions a posterior comes from; None: all, as in training they come in order too."""
    ordered = encoder_class(config).reads_episodes or config.context_source == "trials"
    return None if ordered else config.context_size
