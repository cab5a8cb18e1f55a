"""The data that passes between the rooms of the house, with the shapes written down.

Host data (an :class:`Episode`) is NumPy; what agents see while they act (a :class:`Transition`) is one JAX row
per trial. `terminated` says that the task ended, `truncated` that the clock ran out; only the first stops
bootstrapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Float64, Real, UInt8

Metrics = Mapping[str, float]
"""Scalars of one iteration by column name."""

Tree = Any
"""Any JAX pytree (parameters, beliefs): what is inside is the business of the algorithm that made it."""


def short_repr(self: Any) -> str:
    """How a NamedTuple of arrays is shown: small arrays as they are, of others type and shape."""

    def field(content: Any) -> str:
        if content is None or np.size(content) > 8:
            return "None" if content is None else f"{np.asarray(content).dtype}{list(np.shape(content))}"
        return np.array2string(np.asarray(content), precision=4, separator=", ", max_line_width=10_000)

    fields = ", ".join(f"{name}={field(content)}" for name, content in zip(self._fields, self, strict=True))
    return f"{type(self).__name__}({fields})"


class Transition(NamedTuple):
    """One time step of N trials, as an agent observes it.

    Actions are the agent's own, in [-1, 1]. `sparse_reward` equals `reward` in families that have no separate
    sparse reward. Observations are vectors of float32 or pictures of uint8; `*observation` is their shape.
    """

    observation: Real[Array, "n *observation"]
    action: Float[Array, "n action"]
    reward: Float[Array, " n"]
    sparse_reward: Float[Array, " n"]
    next_observation: Real[Array, "n *observation"]
    terminated: Bool[Array, " n"]


class Stretch(NamedTuple):
    """Consecutive transitions of n tasks, oldest first.

    They are whole episodes, and what is left of `size` repeats them from the first on, so that `transitions` serve if a
    mask is of no use. Or they are a trial from its beginning on, and what is left is filled with anything.
    """

    transitions: Transition
    """Leading axes (n, size)."""
    begins: Bool[Array, "n size"]
    """Whether a transition is the first of its episode."""
    mask: Bool[Array, "n size"]
    """False for what only fills the array."""


@dataclass(frozen=True)
class Episode:
    """One episode, from reset to termination or the horizon.

    Row `t` of `observations` and row `t + 1` are the observation before and after action `t`, so next observations
    are not kept twice. The same holds for `reward_states`.
    """

    observations: Float32[np.ndarray, "length_plus_1 observation"] | UInt8[np.ndarray, "length_plus_1 height width 3"]
    actions: Float32[np.ndarray, "length action"]
    rewards: Float32[np.ndarray, " length"]
    sparse_rewards: Float32[np.ndarray, " length"] | None
    """None in families without a separate sparse reward."""
    terminated: bool
    successes: Bool[np.ndarray, " length"] | None = None
    """Whether each step was a success; None in families that define none."""
    reward_states: Float64[np.ndarray, "length_plus_1 reward_state"] | None = None
    """What rewards are computed from, if the play asked for it."""
    tasks: Float64[np.ndarray, "length parameters"] | None = None
    """The task in force at each step, if the play asked for it."""

    def __len__(self) -> int:
        return len(self.rewards)


Key = jax.Array
"""A typed JAX PRNG key."""


@dataclass(frozen=True)
class Visit:
    """What one visit to a task collected, in order.

    Its episodes are one trial: consecutive, on one task. The first `context_episodes` of them are the task's new
    context data (they replace the old); an algorithm that keeps no separate context passes 0.
    """

    task: int
    """Index of the train task."""
    episodes: tuple[Episode, ...]
    context_episodes: int = 0
    relabelled: bool = False
    """Whether it is a copy with other rewards of what was played: it adds no environment steps."""
