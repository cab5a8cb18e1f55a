"""How agents are called, in collection, in evaluation and in one's own loop: with which random keys, in what order.

A trial has a key of its own. What is drawn at a time step is a function of that key, the time since the trial's play
began and the purpose, so that a trial does not depend on the others that are played with it.
"""

from __future__ import annotations

import enum
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Real

from nacre.interfaces import Agent
from nacre.types import Key, Transition, Tree


class Purpose(enum.IntEnum):
    """What a key is for. Values are part of what a seed means."""

    BEGIN_TRIAL = 0
    BEGIN_EPISODE = 1
    ACT = 2
    END_EPISODE = 3


def trial_keys(key: Key, numbers: Int32[Array, " n"]) -> Key:
    """The keys of trials by their numbers, shape (n,)."""
    return jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)


def keys_at(keys: Key, time: Int32[Array, ""], purpose: Purpose) -> Key:
    """The keys of trials for one purpose at one time, shape (n,)."""
    return jax.vmap(lambda key: jax.random.fold_in(key, len(Purpose) * time + purpose))(keys)


def begin(agent: Agent, params: Tree, keys: Key, tasks: Float32[Array, "n parameters"]) -> Tree:
    """New trials, of which each has begun its first episode. Only an agent that `sees_task` is given `tasks`."""
    start = jnp.int32(0)
    belief = agent.begin_trial(params, keys_at(keys, start, Purpose.BEGIN_TRIAL), tasks if agent.sees_task else None)
    return begin_episode(agent, params, belief, keys, start, jnp.ones(len(keys), bool))


def begin_episode(
    agent: Agent, params: Tree, belief: Tree, keys: Key, time: Int32[Array, ""], mask: Bool[Array, " n"]
) -> Tree:
    return agent.begin_episode(params, belief, keys_at(keys, time, Purpose.BEGIN_EPISODE), mask)


def act(
    agent: Agent,
    params: Tree,
    belief: Tree,
    observation: Real[Array, "n *observation"],
    keys: Key,
    time: Int32[Array, ""],
    mask: Bool[Array, " n"],
    deterministic: bool,
) -> tuple[Float[Array, "n action"], Tree]:
    return agent.act(params, belief, observation, keys_at(keys, time, Purpose.ACT), mask, deterministic)


def observe_and_act(
    agent: Agent,
    params: Tree,
    belief: Tree,
    transition: Transition,
    fresh: Bool[Array, " n"],
    observation: Real[Array, "n *observation"],
    keys: Key,
    time: Int32[Array, ""],
    mask: Bool[Array, " n"],
    deterministic: bool,
) -> tuple[Float[Array, "n action"], Tree]:
    """Observes the transitions that are `fresh`, then acts: one call for each time step."""
    belief = agent.observe(params, belief, transition, fresh)
    return act(agent, params, belief, observation, keys, time, mask, deterministic)


def end_episode(
    agent: Agent,
    params: Tree,
    belief: Tree,
    keys: Key,
    time: Int32[Array, ""],
    ended: Bool[Array, " n"],
    begins: Bool[Array, " n"],
) -> Tree:
    """Ends the episodes of some trials, and begins the next ones in those that go on."""
    belief = agent.end_episode(params, belief, keys_at(keys, time, Purpose.END_EPISODE), ended)
    return begin_episode(agent, params, belief, keys, time, begins)


def observe_and_end_episode(
    agent: Agent,
    params: Tree,
    belief: Tree,
    transition: Transition,
    keys: Key,
    time: Int32[Array, ""],
    ended: Bool[Array, " n"],
    begins: Bool[Array, " n"],
) -> Tree:
    """Observes the last transitions of the episodes that ended, and no others: then as :func:`end_episode`."""
    belief = agent.observe(params, belief, transition, ended)
    return end_episode(agent, params, belief, keys, time, ended, begins)
