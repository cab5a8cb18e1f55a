"""A trained agent in any Gymnasium environment: the loop that everyone would write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import ArrayLike

from nacre.errors import NacreError, shown
from nacre.evaluation import TrialResult
from nacre.loading import LoadedAgent
from nacre.tasks.own_environment import map_to


def play(
    agent: LoadedAgent,
    environment: gymnasium.Env | VectorEnv,
    episodes: int = 3,
    *,
    seed: int | None = None,
    options: dict[str, Any] | None = None,
    task: ArrayLike | None = None,
) -> TrialResult | tuple[TrialResult, ...]:
    """Plays one trial: a new task, on which the agent adapts for some episodes.

    In a vector environment it plays one trial in each slot, whatever its automatic resets are; their steps do not get
    into the context.

    Args:
        agent: of :func:`nacre.load`. It begins a new trial, and afterwards `agent.belief` is what it inferred.
        environment: with the observations that the agent was trained with. Actions are mapped to its bounds, as
            :class:`nacre.tasks.GymnasiumFamily` does.
        episodes: of the trial. The environment has to keep its task across resets.
        seed: of the first reset.
        options: of each reset, such as {"task": [1.5]}.
        task: only for an agent that is given its task; see :meth:`LoadedAgent.begin_trial`. None: the `task` in the
            info of the first reset.

    Returns:
        Returns and lengths of the episodes, and successes if the infos have `success` or `is_success`; of a vector
        environment a tuple of these, one for each slot.

    Raises:
        NacreError: the environment's spaces are not those of the agent; the sparse reward that the agent was trained
            with is not in the infos; a number is not finite.
    """
    if episodes < 1:
        raise NacreError(f"episodes is {shown(episodes)}; allowed: at least 1")
    single = not isinstance(environment, VectorEnv)
    slots: Any = _OneSlot(environment) if single else environment
    to_box = _check_spaces(agent, slots)
    observations, infos = slots.reset(seed=seed, options=options)
    if agent.sees_task and task is None:
        task = infos.get("task") if not single else infos["task"][0] if "task" in infos else None
    agent.begin_trial(None if single else slots.num_envs, task=task)
    records = _Records(slots.num_envs, episodes, agent.family.success_at)
    mode = slots.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    waits = np.zeros(slots.num_envs, bool)  # where the next step only resets
    while records.playing.any():
        actions = agent.act(observations[0] if single else observations)
        actions = np.atleast_2d(actions)
        following, rewards, terminated, truncated, infos = slots.step(to_box(actions.astype(np.float64)))
        ended = terminated | truncated
        active = records.playing & ~waits
        what_came = _what_came(agent, following, ended, rewards, infos)
        flags = {"terminated": terminated, "truncated": truncated}
        arrays = {name: value[0] if single else value for name, value in {**what_came, **flags}.items()}
        agent.observe(**arrays, **({} if single else {"active": active}))
        records.add(active, rewards, ended, _of_infos(infos, ended, "success", "is_success"))
        waits = ended if mode == AutoresetMode.NEXT_STEP else np.zeros_like(waits)
        if mode == AutoresetMode.DISABLED and ended.any() and records.playing.any():
            following, _ = slots.reset(options={**(options or {}), "reset_mask": ended})
        observations = following
    results = records.results()
    return results[0] if single else results


class _OneSlot:
    """A single environment as a vector of one, without automatic resets."""

    num_envs = 1

    def __init__(self, env: gymnasium.Env):
        self._env = env
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        options = {name: value for name, value in (options or {}).items() if name != "reset_mask"}
        observation, info = self._env.reset(seed=seed, options=options or None)
        return np.asarray(observation)[None], _of_one_slot(info)

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._env.step(actions[0])
        flags = np.array([terminated], bool), np.array([truncated], bool)
        return np.asarray(observation)[None], np.array([reward], np.float64), *flags, _of_one_slot(info)


def _of_one_slot(info: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of an info that are read here, with a leading axis."""
    names = "task", "sparse_reward", "success", "is_success"
    return {name: np.asarray(info[name])[None] for name in names if name in info}


def _check_spaces(agent: LoadedAgent, slots: Any) -> Any:
    """What maps the agent's actions to those of the environment."""
    family, observations, actions = agent.family, slots.single_observation_space, slots.single_action_space
    if observations.shape != family.observation_shape:
        raise NacreError(
            f"the environment's observations are {observations}; allowed for this agent of {family.name}: the shape "
            f"{family.observation_shape}"
        )
    if not isinstance(actions, Box) or actions.shape != (family.action_size,) or not actions.is_bounded():
        raise NacreError(
            f"the environment's actions are {actions}; allowed for this agent of {family.name}: a Box of shape "
            f"({family.action_size},) with finite bounds"
        )
    return map_to(actions)


def _what_came(
    agent: LoadedAgent, following: np.ndarray, ended: np.ndarray, rewards: np.ndarray, infos: Mapping[str, Any]
) -> dict[str, Any]:
    """What the agent observes: the last observations of episodes, and not the first ones of those that were begun in
    the same step."""
    if "final_obs" in infos:
        following = following.copy()
        for slot in np.flatnonzero(ended):
            following[slot] = infos["final_obs"][slot]
    what_came = {"next_observation": following, "reward": rewards}
    if agent.sees_sparse_reward:
        sparse_rewards = _of_infos(infos, ended, "sparse_reward")
        if sparse_rewards is None:
            raise NacreError(
                "the infos of the environment have no sparse_reward, and this agent was trained with it in its context"
            )
        what_came["sparse_reward"] = sparse_rewards
    return what_came


def _of_infos(infos: Mapping[str, Any], ended: np.ndarray, *names: str) -> np.ndarray | None:
    """The first of these entries that there is, one value for each slot. If an episode ended and another was begun in
    the same step, the info of the first one is in `final_info`."""
    final = infos.get("final_info", {})
    for name in names:
        if name in infos or name in final:
            values = np.zeros(len(ended)) if name not in infos else np.array(infos[name], np.float64)
            return np.where(ended, np.asarray(final[name], np.float64), values) if name in final else values
    return None


class _Records:
    """Returns, lengths and successes of each slot's episodes."""

    def __init__(self, n: int, episodes: int, success_at: str):
        self._episodes, self._success_at = episodes, success_at
        self._rows: list[list[tuple[float, int, bool | None]]] = [[] for _ in range(n)]
        self._returns, self._lengths = np.zeros(n), np.zeros(n, int)
        self._successes: np.ndarray | None = None

    @property
    def playing(self) -> np.ndarray:
        return np.array([len(rows) < self._episodes for rows in self._rows])

    def add(self, active: np.ndarray, rewards: np.ndarray, ended: np.ndarray, successes: np.ndarray | None) -> None:
        self._returns[active] += rewards[active]
        self._lengths[active] += 1
        if successes is not None:
            before = np.zeros(len(active), bool) if self._successes is None else self._successes
            now = successes > 0
            self._successes = np.where(active, before | now if self._success_at == "any" else now, before)
        for slot in np.flatnonzero(active & ended):
            success = None if self._successes is None else bool(self._successes[slot])
            self._rows[slot].append((float(self._returns[slot]), int(self._lengths[slot]), success))
            self._returns[slot], self._lengths[slot] = 0.0, 0
            if self._successes is not None:
                self._successes[slot] = False

    def results(self) -> tuple[TrialResult, ...]:
        return tuple(_result(*zip(*rows, strict=True)) for rows in self._rows)


def _result(returns: tuple[float, ...], lengths: tuple[int, ...], successes: tuple[bool | None, ...]) -> TrialResult:
    known = tuple(success for success in successes if success is not None)
    return TrialResult(returns, lengths, known if len(known) == len(successes) else None)
