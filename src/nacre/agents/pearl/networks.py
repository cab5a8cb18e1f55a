"""PEARL's networks, and the posterior over z that its context encoder gives (PEARL, section 4.1; spec 1.1, 1.2)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nacre.agents.pearl.config import PearlConfig
from nacre.nn.convolution import ConvolutionalTrunk
from nacre.nn.gaussian import product_of_gaussians
from nacre.nn.lstm import LSTM
from nacre.nn.mlp import MLP, Precision
from nacre.rl.policy import TanhGaussianPolicy
from nacre.tasks.family import Sizes
from nacre.types import Key, Stretch, Transition


class TransitionEncoder(MLP):
    """Encodes every transition of the context by itself, in whatever order."""

    reads_episodes: ClassVar[bool] = False


class RecurrentEncoder(eqx.Module):
    """An LSTM between the hidden layers of an MLP, which see single transitions, and its output layer (spec 1.8).

    It has no state of its own: every call begins with zeros and reads one sequence, episode after episode.
    """

    reads_episodes: ClassVar[bool] = True
    """Whether the context has to be in order, and the encoder sees where episodes begin in it."""

    network: MLP
    lstm: LSTM

    def __init__(self, sizes: tuple[int, ...], *, key: Key, precision: Precision):
        """`sizes` are those of the MLP; the LSTM is as wide as the last hidden layer."""
        network_key, lstm_key = jax.random.split(key)
        self.network = MLP(sizes, key=network_key, precision=precision)
        self.lstm = LSTM(sizes[-2], sizes[-2], key=lstm_key, precision=precision)

    def __call__(
        self, context: Float[Array, "n size context"], mask: Bool[Array, "n size"]
    ) -> Float[Array, "n output"]:
        """The output after the last transition of each sequence whose mask is True."""
        n, size, width = context.shape
        hidden = self.network.hidden(context.reshape(n * size, width))
        state = self.lstm(hidden.reshape(n, size, hidden.shape[1]), mask, self.lstm.initial_state(n))
        return self.network.output(state.hidden)


Encoder = TransitionEncoder | RecurrentEncoder


class Context(NamedTuple):
    """Transitions of n trials or tasks, from which posteriors are inferred."""

    transitions: Transition
    """Leading axes (n, size)."""
    mask: Bool[Array, "n size"] | None = None
    """False where a transition takes no part; None: all do."""
    begins: Bool[Array, "n size"] | None = None
    """Whether a transition is the first of its episode; None: that is not seen."""
    reward_before: Float[Array, "n size"] | None = None
    """What the encoder saw as the reward of the steps before them, if it sees changes; where an episode begins it means
    nothing."""

    @classmethod
    def of_stretch(cls, config: PearlConfig, stretch: Stretch) -> Context:
        """With what is in order all is known."""
        rewards = context_reward(config, stretch.transitions)
        before = jnp.roll(rewards, 1, axis=1) if config.reward_change_in_context else None
        return cls(stretch.transitions, stretch.mask, stretch.begins, before)


class ActingNetworks(NamedTuple):
    """What an agent needs: to infer and to act. (Each call while acting walks through what it is given, so that the
    other networks would cost time.)"""

    encoder: Encoder
    policy: TanhGaussianPolicy
    trunk: ConvolutionalTrunk | None = None


class PearlNetworks(eqx.Module):
    """All that is trained. Where observations are pictures, the others see the features of the trunk in their place."""

    encoder: Encoder
    policy: TanhGaussianPolicy
    critics: tuple[MLP, MLP]
    value: MLP
    trunk: ConvolutionalTrunk | None = None

    @property
    def acting(self) -> ActingNetworks:
        return ActingNetworks(self.encoder, self.policy, self.trunk)


def encoder_class(config: PearlConfig) -> type[TransitionEncoder] | type[RecurrentEncoder]:
    return RecurrentEncoder if config.encoder == "recurrent" else TransitionEncoder


def initial_networks(config: PearlConfig, sizes: Sizes, *, key: Key, precision: Precision) -> PearlNetworks:
    """Fresh networks: three hidden layers each, initialised as :class:`nacre.nn.mlp.MLP` says, and the trunk."""
    trunk = None
    if not isinstance(sizes.observation, int):
        height, width, colours = sizes.observation
        trunk = ConvolutionalTrunk(
            (height, width, config.frame_stack * colours),
            config.picture_filters,
            config.picture_features,
            key=jax.random.fold_in(key, 1),
            precision=precision,
        )
    encoder_key, policy_key, first_key, second_key, value_key = jax.random.split(key, 5)
    hidden = (config.hidden_size,) * 3
    state_size = feature_size(config, sizes) + config.latent_size
    encoder_sizes = (
        context_width(config, sizes),
        *(config.encoder_hidden_size,) * 3,
        (2 if config.probabilistic_context else 1) * config.latent_size,
    )
    return PearlNetworks(
        encoder=encoder_class(config)(encoder_sizes, key=encoder_key, precision=precision),  # pyright: ignore
        policy=TanhGaussianPolicy(state_size, sizes.action, hidden, key=policy_key, precision=precision),
        critics=(
            MLP((state_size + sizes.action, *hidden, 1), key=first_key, precision=precision),
            MLP((state_size + sizes.action, *hidden, 1), key=second_key, precision=precision),
        ),
        value=MLP((state_size, *hidden, 1), key=value_key, precision=precision),
        trunk=trunk,
    )


def feature_size(config: PearlConfig, sizes: Sizes) -> int:
    """How many numbers the networks see of an observation: its own, or the features of a picture."""
    return sizes.observation if isinstance(sizes.observation, int) else config.picture_features


def with_features(trunk: ConvolutionalTrunk | None, context: Context) -> Context:
    """The context with features in place of pictures; unchanged without a trunk."""
    if trunk is None:
        return context
    seen = context.transitions
    seen = seen._replace(observation=trunk(seen.observation), next_observation=trunk(seen.next_observation))
    return context._replace(transitions=seen)


def context_width(config: PearlConfig, sizes: Sizes) -> int:
    """Width of one row of context."""
    observations = (2 if config.next_observation_in_context else 1) * feature_size(config, sizes)
    change = 1 if config.reward_change_in_context else 0
    return observations + sizes.action + 1 + change + (1 if _sees_beginnings(config) else 0)


def reward_column(config: PearlConfig, sizes: Sizes) -> int:
    """Where the reward is in a row of context."""
    return feature_size(config, sizes) + sizes.action


def context_reward(config: PearlConfig, transition: Transition) -> Float[Array, "*batch"]:
    """The reward that the encoder sees."""
    return transition.sparse_reward if config.sparse_reward_in_context else transition.reward


def context_rows(
    config: PearlConfig,
    transition: Transition,
    begins: Bool[Array, "*batch"] | None = None,
    reward_before: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch context"]:
    """What the encoder sees of transitions: observation, action, reward and, if asked, the next observation.

    If asked it also sees how the reward changed, from `reward_before`, the one that the encoder saw of the step before.
    Then, or if it is recurrent, it sees which transitions begin an episode: `begins`.
    """
    reward = context_reward(config, transition)
    parts = [transition.observation, transition.action, reward[..., None]]
    if config.next_observation_in_context:
        parts.append(transition.next_observation)
    if _sees_beginnings(config):
        if begins is None:
            raise ValueError("this encoder has to see where episodes begin")
        parts.append(begins[..., None].astype(reward.dtype))
    if config.reward_change_in_context:
        if begins is None or reward_before is None:
            raise ValueError("this encoder has to see the reward of the step before")
        change = jnp.where(begins, 0, reward - reward_before)
        parts.append(config.reward_change_in_context * change[..., None])
    return jnp.concatenate(parts, axis=-1)


def drawn_context(
    config: PearlConfig, context: Context
) -> tuple[Float[Array, "n size context"], Bool[Array, "n size"] | None]:
    """The rows of a context and its mask, as :func:`infer_posterior` takes them."""
    return context_rows(config, context.transitions, context.begins, context.reward_before), context.mask


def _sees_beginnings(config: PearlConfig) -> bool:
    return encoder_class(config).reads_episodes or config.reward_change_in_context > 0


def infer_posterior(
    encoder: Encoder,
    config: PearlConfig,
    context: Float[Array, "n size context"],
    mask: Bool[Array, "n size"] | None = None,
) -> tuple[Float[Array, "n latent"], Float[Array, "n latent"]]:
    """Mean and variance of q(z | c) for each of n trials; without context it is the prior N(0, 1).

    A recurrent encoder gives one factor, from all transitions in order; otherwise every transition gives one. With a
    deterministic context the variance is 0 and the mean is the plain mean of what was encoded, or 0 without context.
    """
    n, size, width = context.shape
    if isinstance(encoder, RecurrentEncoder):
        mask = jnp.ones((n, size), bool) if mask is None else mask
        encoded, mask = encoder(context, mask)[:, None], mask.any(axis=1, keepdims=True)
    else:
        encoded = encoder(context.reshape(n * size, width)).reshape(n, size, -1)
    if config.probabilistic_context:
        means, raw_variances = jnp.split(encoded, 2, axis=-1)
        return product_of_gaussians(means, raw_variances, mask, config.prior_factor)
    weight = jnp.ones(encoded.shape[:2]) if mask is None else mask.astype(encoded.dtype)
    total = (weight[..., None] * encoded).sum(axis=1)
    mean = total / jnp.maximum(weight.sum(axis=1), 1)[:, None]
    return mean, jnp.zeros_like(mean)
