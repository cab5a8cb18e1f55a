"""Your own Gymnasium environment as a task family."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TimeLimit
from jaxtyping import Float64, Int, Real
from numpy.typing import ArrayLike

from nacre.errors import NacreError
from nacre.tasks.checks import call, name_of, numbers, several, shortened
from nacre.tasks.family import TaskFamily, World, check_family, check_tasks

SetTask = Callable[[gymnasium.Env, np.ndarray], None]


class GymnasiumFamily(TaskFamily):
    """Any Gymnasium environment with a settable task as a task family.

    Its observations must be a Box of one dimension, its actions a Box of one dimension with finite bounds, to which
    nacre's actions in [-1, 1] are mapped: affinely, or in equal shares to each value if they are whole numbers. Rewards
    and terminations are the environment's own: the reward state is what it returned (reward, whether it terminated,
    whether it was a success), so rewards cannot be recomputed for another task.

    Slots are stepped one after another; each holds an environment of its own.
    """

    can_relabel = False

    def __init__(
        self,
        name: str,
        make_env: Callable[[], gymnasium.Env],
        set_task: SetTask,
        sample_tasks: Callable[[np.random.Generator, int], np.ndarray] | None = None,
        task_parameters: Sequence[str] = (),
        horizon: int | None = None,
        *,
        tasks: ArrayLike | None = None,
        success_key: str | None = None,
        success_at: Literal["any", "end"] = "any",
        accept_memory: bool = False,
        follows_changes: bool = False,
    ) -> None:
        """
        Args:
            name: the family's name.
            make_env: makes one environment. It is called here once, to look at it, and once per slot.
            set_task: `set_task(env, task)` with one row of task parameters; called before each reset of `env`.
            sample_tasks: `sample_tasks(generator, n)` draws tasks, shape (n, parameters).
            task_parameters: the names of a task's parameters.
            horizon: steps after which an episode is truncated; None: as the environment's TimeLimit says.
            tasks: all tasks there are, a row of parameters each, in place of `sample_tasks`. The first of them are for
                training, the last for testing.
            success_key: which entry of a step's info says whether the step was a success, such as "success" or
                "is_success"; None: the family has no successes.
            success_at: whether an episode is a success if any of its steps was one, or if its last step was.
            accept_memory: takes an environment that remembers across episodes (NormalizeObservation) as it is.
            follows_changes: whether `set_task` may also be called between two steps of an episode, and changes the task
                from the next step on: then tasks may change by time (see :class:`nacre.tasks.shifts.Shift`).

        Raises:
            NacreError: the spaces are not of the kinds above; a TimeLimit is shorter than the horizon; the environment
                remembers; an argument is missing or impossible.
        """
        env = call(make_env)
        _check_env(name, make_env, env)
        try:
            observation_box = _vector_space(name, "observation", env.observation_space)
            action_box = _vector_space(name, "action", env.action_space)
            limit, remembers = _time_limit(env), bool(_offering(env))
            if not accept_memory:
                _check_memory(name, env)
        finally:
            env.close()
        _check_bounds(name, action_box)
        if limit is not None and horizon is not None and limit < horizon:
            raise NacreError(
                f"horizon of {name} is {horizon}, but its environment has a TimeLimit of {limit} steps; allowed: at "
                f"most {limit}, or an environment made with max_episode_steps={horizon}."
            )
        if (tasks is None) == (sample_tasks is None):
            raise NacreError(f"{name} needs sample_tasks or tasks, one of the two.")
        self.name = name
        self.observation_size = observation_box.shape[0]
        self.action_size = action_box.shape[0]
        self.horizon = limit if horizon is None else horizon  # pyright: ignore[reportAttributeAccessIssue]
        self.task_parameters = tuple(task_parameters) if not isinstance(task_parameters, str) else task_parameters  # pyright: ignore[reportAttributeAccessIssue]
        self.has_success = success_key is not None
        self.remembers = remembers
        self.follows_changes = follows_changes
        self.success_at = success_at
        self._make_env = make_env
        self._set_task = set_task
        self._sample_tasks = sample_tasks
        self._success_key = success_key
        check_family(self)
        if tasks is not None:
            self.finite_tasks = tuple(map(tuple, check_tasks(self, tasks).tolist()))
            check_family(self)

    def sample_tasks(self, generator: np.random.Generator, n: int) -> Float64[np.ndarray, "n parameters"]:
        if self._sample_tasks is None:
            return generator.choice(np.array(self.finite_tasks), n)
        return check_tasks(self, call(self._sample_tasks, generator, n), self.sample_tasks, n)

    def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return following[..., 0]

    def terminated(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return following[..., 1] > 0

    def success(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
        return following[..., 2] > 0

    def make_world(self, n_slots: int, threads: int) -> World:
        envs = [call(self._make_env) for _ in range(n_slots)]
        for env in envs:
            _check_env(self.name, self._make_env, env)
        if len({id(env.unwrapped) for env in envs}) < n_slots:
            raise NacreError(
                f"{name_of(self._make_env)} returned the same environment twice; allowed: a new one in each call."
            )
        return _GymnasiumWorld(self, envs, self._set_task, self._success_key)


class _GymnasiumWorld:
    """One Gymnasium environment per slot. The reward state is (reward, terminated, success)."""

    def __init__(
        self, family: TaskFamily, envs: list[gymnasium.Env], set_task: SetTask, success_key: str | None
    ) -> None:
        self._name, self._horizon = family.name, family.horizon
        self._shape = family.observation_shape
        self._envs = envs
        self._set_task = set_task
        self._success_key = success_key
        self._ages = np.zeros(len(envs), np.int64)
        self._to_box = map_to(_vector_space(family.name, "action", envs[0].action_space))
        self._task_was_set = False

    def reset(
        self,
        slots: Int[np.ndarray, " n"],
        tasks: Float64[np.ndarray, "n parameters"],
        generators: list[np.random.Generator],
    ) -> tuple[Real[np.ndarray, "n observation"], Float64[np.ndarray, "n 3"]]:
        observations = []
        for slot, task, generator in zip(slots, tasks, generators, strict=True):
            env = self._envs[slot]
            self._tell_task(env, task)
            source = env.unwrapped.reset
            returned = call(functools.partial(env.reset, seed=int(generator.integers(2**31))), named=source)
            observation, _ = several(source, returned, "observation", "info")
            observations.append(numbers(source, "an observation", observation, *self._shape))
        self._ages[slots] = 0
        return np.array(observations), np.zeros((len(slots), 3))

    def step(
        self, slots: Int[np.ndarray, " n"], actions: Float64[np.ndarray, "n action"]
    ) -> tuple[Real[np.ndarray, "n observation"], Float64[np.ndarray, "n 3"]]:
        self._ages[slots] += 1
        observations, reward_states = [], []
        for slot, action in zip(slots, self._to_box(actions), strict=True):
            env = self._envs[slot]
            source = env.unwrapped.step
            returned = call(env.step, action, named=source)
            observation, reward, terminated, truncated, info = several(
                source, returned, "observation", "reward", "terminated", "truncated", "info"
            )
            observations.append(numbers(source, "an observation", observation, *self._shape))
            reward = float(numbers(source, "a reward", reward))
            terminated, truncated = _flag(source, "terminated", terminated), _flag(source, "truncated", truncated)
            if truncated and not terminated and self._ages[slot] < self._horizon:
                raise NacreError(
                    f"The environment of {self._name} truncated an episode after {self._ages[slot]} steps, before its "
                    f"family's horizon of {self._horizon}; give the family the shorter horizon."
                )
            reward_states.append((reward, terminated, self._success(source, info)))
        return np.array(observations), np.array(reward_states, np.float64)

    def set_tasks(self, slots: Int[np.ndarray, " n"], tasks: Float64[np.ndarray, "n parameters"]) -> None:
        for slot, task in zip(slots, tasks, strict=True):
            self._tell_task(self._envs[slot], task)

    def state_dict(self) -> list[list[Any]]:
        """What the environments remember across episodes, as far as they offer it: of each slot, what the `state_dict`
        of each of its wrappers and of the environment returned, from outside to inside."""
        return [[call(layer.state_dict) for layer in _offering(env)] for env in self._envs]

    def load_state_dict(self, state: list[list[Any]]) -> None:
        """Gives it back to environments that were made anew."""
        for env, remembered in zip(self._envs, state, strict=True):
            for layer, value in zip(_offering(env), remembered, strict=True):
                call(layer.load_state_dict, value)

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _tell_task(self, env: gymnasium.Env, task: np.ndarray) -> None:
        """Also notices, the first time, a task that only a wrapper was told."""
        wrappers = [layer for layer in _layers(env)[:-1] if type(layer).__module__.startswith("gymnasium.")]
        before = [set(vars(wrapper)) for wrapper in wrappers]
        call(self._set_task, env, task.copy())
        if not self._task_was_set:
            for wrapper, names in zip(wrappers, before, strict=True):
                for name in vars(wrapper).keys() - names:
                    raise NacreError(
                        f"{name_of(self._set_task)} set {name} on the wrapper {type(wrapper).__name__}, and not on "
                        f"{type(env.unwrapped).__name__} inside of it, which does not see it; set env.unwrapped.{name}."
                    )
            self._task_was_set = True

    def _success(self, source: Callable[..., Any], info: Any) -> bool:
        if self._success_key is None:
            return False
        if not isinstance(info, Mapping) or self._success_key not in info:
            keys = ", ".join(map(repr, info)) if isinstance(info, Mapping) else shortened(info)
            raise NacreError(
                f"success_key of {self._name} is {self._success_key!r}, which the info of {name_of(source)} does not "
                f"have; it has: {keys or 'nothing'}."
            )
        value = info[self._success_key]
        if np.ndim(value) or not (isinstance(value, bool | np.bool_) or value in (0, 1)):
            raise NacreError(
                f"{name_of(source)} returned {shortened(value)} as info[{self._success_key!r}]; allowed: true or false."
            )
        return bool(value)


def map_to(box: Box) -> Callable[[np.ndarray], np.ndarray]:
    """Maps actions (n, action) in [-1, 1] to those of a Box."""
    low, high = box.low.astype(np.float64), box.high.astype(np.float64)
    if np.issubdtype(box.dtype, np.integer):
        # Equal shares of [-1, 1] for each whole number, so that a policy that never quite reaches 1 reaches the last.
        values = high - low + 1

        def share(actions: np.ndarray) -> np.ndarray:
            return (low + np.clip(np.floor(0.5 * (1 + actions) * values), 0, values - 1)).astype(box.dtype)

        return share
    # Written so that -1 and 1 give exactly the bounds.
    return lambda actions: (0.5 * (1 - actions) * low + 0.5 * (1 + actions) * high).astype(box.dtype)


def _layers(env: gymnasium.Env) -> list[Any]:
    """The wrappers of an environment from outside to inside, and the environment itself."""
    layers: list[Any] = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    return layers


def _offering(env: gymnasium.Env) -> list[Any]:
    """Those of the layers that offer what they remember."""
    return [layer for layer in _layers(env) if all(hasattr(type(layer), hook) for hook in _HOOKS)]


_HOOKS = "state_dict", "load_state_dict"


def _check_env(name: str, make_env: Callable[[], gymnasium.Env], env: Any) -> None:
    if not isinstance(env, gymnasium.Env):
        raise NacreError(
            f"{name_of(make_env)} returned {shortened(env)} for {name}; allowed: one gymnasium.Env (not a vector of "
            "them, nor an environment of the old gym)."
        )


def _check_memory(name: str, env: gymnasium.Env) -> None:
    """Raises NacreError if a known wrapper goes on changing its statistics from one episode to the next."""
    for layer in _layers(env):
        known = isinstance(layer, NormalizeObservation | NormalizeReward) and layer.update_running_mean
        offers = all(hasattr(type(layer), hook) for hook in _HOOKS)
        if known and not offers:
            raise NacreError(
                f"{type(layer).__name__} of {name} remembers from one episode to the next: each slot would have "
                "statistics of its own, no checkpoint would hold them, and a resumed run would not be the same. Leave "
                "it out, let it use fixed statistics (update_running_mean = False), or give it the methods state_dict "
                "and load_state_dict; accept_memory=True takes it as it is."
            )


def _time_limit(env: gymnasium.Env) -> int | None:
    """After how many steps the shortest TimeLimit of an environment truncates."""
    limits = [layer._max_episode_steps for layer in _layers(env) if isinstance(layer, TimeLimit)]
    return min(limits, default=None)


def _flag(source: Callable[..., Any], what: str, value: Any) -> bool:
    if isinstance(value, bool | np.bool_) or (isinstance(value, np.ndarray) and value.dtype == bool and not value.ndim):
        return bool(value)
    raise NacreError(f"{name_of(source)} returned {shortened(value)} as {what}; allowed: True or False.")


def _vector_space(name: str, kind: str, space: gymnasium.Space) -> Box:
    if isinstance(space, Box) and len(space.shape) == 1 and space.shape[0] > 0:
        return space
    sentence = f"The {kind} space of {name} must be a Box of one dimension, and is {space}"
    raise NacreError(f"{sentence}: {_observation_hint(space) if kind == 'observation' else _action_hint(space)}")


def _observation_hint(space: gymnasium.Space) -> str:
    if isinstance(space, gymnasium.spaces.Dict):
        return (
            "choose parts of it with gymnasium.wrappers.FilterObservation, then make a vector of them with "
            "FlattenObservation. What tells the task, such as a desired goal, has to stay out: the agent should infer "
            "it."
        )
    return "gymnasium.wrappers.FlattenObservation makes a vector of it, which must not contain the task."


def _action_hint(space: gymnasium.Space) -> str:
    if isinstance(space, Discrete):
        last = space.start + space.n - 1
        return (
            f"nacre's actions are continuous. gymnasium.wrappers.TransformAction(env, lambda action: int(action[0]), "
            f"Box({space.start}, {last}, (1,), int)) gives each of the {space.n} actions an equal share of [-1, 1]."
        )
    return (
        "gymnasium.wrappers.TransformAction(env, lambda action: ..., Box(...)) makes such actions of vectors, "
        "gymnasium.spaces.unflatten helps."
    )


def _check_bounds(name: str, box: Box) -> None:
    # Float64 does not tell larger whole numbers apart.
    countable = not np.issubdtype(box.dtype, np.integer) or (box.high.astype(float) - box.low < 2.0**53).all()
    if not box.is_bounded() or not countable:
        raise NacreError(
            f"The action space of {name} must have finite bounds, and is {box}; choose some with "
            "gymnasium.wrappers.TransformAction(env, lambda action: action, Box(low, high, ...))."
        )
