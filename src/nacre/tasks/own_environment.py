"""Your own Gymnasium environment as a task family."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TimeLimit
from jaxtyping import Float64, Int, Real, UInt8
from numpy.typing import ArrayLike

from nacre.errors import NacreError
from nacre.tasks.checks import call, name_of, numbers, several, shortened
from nacre.tasks.environment_processes import DistributedWorld, DrawableDistributedWorld, draw_seeds
from nacre.tasks.family import TaskFamily, World, check_family, check_tasks
from nacre.tasks.rendering import PictureRenderer, Renderer, reduced

SetTask = Callable[[gymnasium.Env, np.ndarray], Any]

FRAMES_PER_SECOND = 30.0
"""Of an environment whose metadata do not say it (`render_fps`)."""


class GymnasiumFamily(TaskFamily):
    """Any Gymnasium environment with a settable task as a task family.

    Its observations must be a Box of one dimension, or of pictures: uint8, height × width × 3. Its actions must be a
    Box of one dimension with finite bounds, to which nacre's actions in [-1, 1] are mapped: affinely, or in equal
    shares to each value if they are whole numbers. Rewards and terminations are the environment's own: the reward state
    is what it returned (reward, whether it terminated, whether it was a success), so rewards cannot be recomputed for
    another task.

    Each slot holds an environment of its own. Slots are stepped one after another, or with `processes=True` in several
    processes at once.
    """

    can_relabel = False

    def __init__(
        self,
        name: str,
        make_env: Callable[[], gymnasium.Env],
        set_task: SetTask | None = None,
        sample_tasks: Callable[[np.random.Generator, int], np.ndarray] | None = None,
        task_parameters: Sequence[str] = (),
        horizon: int | None = None,
        *,
        tasks: ArrayLike | None = None,
        success_key: str | None = None,
        success_at: Literal["any", "end"] = "any",
        set_task_at: str = "before reset",
        reset_options: Callable[[np.ndarray], dict[str, Any]] | None = None,
        accept_memory: bool = False,
        follows_changes: bool = False,
        processes: bool = False,
        most_slots: int | None = None,
    ) -> None:
        """
        Args:
            name: the family's name.
            make_env: makes one environment. It is called here once, to look at it, and once per slot.
            set_task: `set_task(env, task)` with one row of task parameters; called at each reset of `env`. None: the
                environment is told its task by `reset_options` alone.
            sample_tasks: `sample_tasks(generator, n)` draws tasks, shape (n, parameters).
            task_parameters: the names of a task's parameters.
            horizon: steps after which an episode is truncated; None: as the environment's TimeLimit says.
            tasks: all tasks there are, a row of parameters each, in place of `sample_tasks`. The first of them are for
                training, the last for testing.
            success_key: which entry of a step's info says whether the step was a success, such as "success" or
                "is_success"; None: the family has no successes.
            success_at: whether an episode is a success if any of its steps was one, or if its last step was.
            set_task_at: "before reset", or "after reset" for an environment that chooses a task itself in `reset`. Then
                `set_task` may return the observation of the task that it has set; None: that of the reset stays.
            reset_options: `reset_options(task)` gives the `options` of each reset, for an environment that is told its
                task so.
            accept_memory: takes an environment that remembers across episodes (NormalizeObservation) as it is.
            follows_changes: whether `set_task` may also be called between two steps of an episode, and changes the task
                from the next step on: then tasks may change by time (see :class:`nacre.tasks.shifts.Shift`).
            processes: whether the slots are in as many processes as a simulator has threads, this one among them. Then
                `make_env`, `set_task` and `reset_options` are sent to the others: they may be lambdas, functions of the
                main module, or functions of a module that can be imported there. Results do not depend on it.
            most_slots: how many environments a simulator of a run has at most; trials that are more take turns. Results
                do not depend on it. None: as many as there are trials.

        Raises:
            NacreError: the spaces are not of the kinds above; a TimeLimit is shorter than the horizon; the environment
                remembers; an argument is missing or impossible.
        """
        env = call(make_env)
        _check_env(name, make_env, env)
        try:
            self.observation_size = _observation_size(name, env.observation_space)
            action_box = _vector_space(name, "action", env.action_space)
            limit, remembers, draws = _time_limit(env), bool(_offering(env)), env.render_mode == "rgb_array"
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
        _check_told(name, set_task, set_task_at, reset_options)
        self.name = name
        self.action_size = action_box.shape[0]
        self.horizon = limit if horizon is None else horizon  # pyright: ignore[reportAttributeAccessIssue]
        self.task_parameters = tuple(task_parameters) if not isinstance(task_parameters, str) else task_parameters  # pyright: ignore[reportAttributeAccessIssue]
        self.has_success = success_key is not None
        self.remembers = remembers
        self.follows_changes = follows_changes
        self.success_at = success_at
        self.most_slots = most_slots
        self._make_env = make_env
        self._sample_tasks = sample_tasks
        self._told = _Told(set_task, set_task_at == "after reset", reset_options)
        self._success_key = success_key
        self._processes, self._draws = processes, draws
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
        parts = min(threads, n_slots) if self._processes else 1
        if parts == 1:
            return self.make_slots(n_slots)
        sent = copy.copy(self)
        sent._sample_tasks = None  # slots are told their tasks, and it may hold much
        sizes = [len(part) for part in np.array_split(np.arange(n_slots), parts)]
        kind = DrawableDistributedWorld if self._draws else DistributedWorld
        return kind(sent, sizes)

    def make_slots(self, n_slots: int) -> _GymnasiumWorld:
        """The physics of some slots, all in this process.

        Raises:
            NacreError: `make_env` raises an error, or returns something else than new environments.
        """
        envs = [call(self._make_env) for _ in range(n_slots)]
        for env in envs:
            _check_env(self.name, self._make_env, env)
        if len({id(env.unwrapped) for env in envs}) < n_slots:
            raise NacreError(
                f"{name_of(self._make_env)} returned the same environment twice; allowed: a new one in each call."
            )
        kind = self._drawable_kind if self._draws else self._kind
        return kind(self, envs, self._told, self._success_key)

    @property
    def _kind(self) -> type[_GymnasiumWorld]:
        return _GymnasiumWorld

    @property
    def _drawable_kind(self) -> type[_GymnasiumWorld]:
        return _DrawableGymnasiumWorld

    @property
    def why_not_drawn(self) -> str:
        return "make its environment with render_mode='rgb_array', as in gymnasium.make(..., render_mode='rgb_array')"


class _Told(NamedTuple):
    """How an environment is told its task."""

    set_task: SetTask | None
    after: bool
    """Whether `set_task` is called after the reset."""
    options: Callable[[np.ndarray], dict[str, Any]] | None


class _GymnasiumWorld:
    """One Gymnasium environment per slot. The reward state is (reward, terminated, success)."""

    def __init__(self, family: TaskFamily, envs: list[gymnasium.Env], told: _Told, success_key: str | None) -> None:
        self._name, self._horizon = family.name, family.horizon
        self._shape = family.observation_shape
        self._envs = envs
        self._told = told
        self._success_key = success_key
        self._ages = np.zeros(len(envs), np.int64)
        self._to_box = map_to(_vector_space(family.name, "action", envs[0].action_space))
        self._task_was_set = False

    def reset(
        self,
        slots: Int[np.ndarray, " n"],
        tasks: Float64[np.ndarray, "n parameters"],
        generators: list[np.random.Generator],
    ) -> tuple[Real[np.ndarray, "n *observation"], Float64[np.ndarray, "n reward_state"]]:
        return self.begin(slots, tasks, draw_seeds(generators))

    def begin(
        self, slots: Int[np.ndarray, " n"], tasks: Float64[np.ndarray, "n parameters"], seeds: Sequence[int]
    ) -> tuple[Real[np.ndarray, "n *observation"], Float64[np.ndarray, "n reward_state"]]:
        """Starts an episode in each of `slots`, with a seed for each."""
        observations = []
        for slot, task, seed in zip(slots, tasks, seeds, strict=True):
            env = self._envs[slot]
            if not self._told.after:
                self._tell_task(env, task)
            source = env.unwrapped.reset
            options = None if self._told.options is None else call(self._told.options, task.copy())
            reset = functools.partial(env.reset, seed=seed, options=options)
            observation, _ = several(source, call(reset, named=source), "observation", "info")
            told = self._tell_task(env, task) if self._told.after else None
            if told is not None and self._told.set_task is not None:
                source, observation = self._told.set_task, told
            observations.append(numbers(source, "an observation", observation, *self._shape))
        self._ages[slots] = 0
        return np.array(observations), np.zeros((len(slots), 3))

    def step(
        self, slots: Int[np.ndarray, " n"], actions: Float64[np.ndarray, "n action"]
    ) -> tuple[Real[np.ndarray, "n *observation"], Float64[np.ndarray, "n reward_state"]]:
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

    def _tell_task(self, env: gymnasium.Env, task: np.ndarray) -> Any:
        """Returns what `set_task` returned. Also notices, the first time, a task that only a wrapper was told."""
        set_task = self._told.set_task
        if set_task is None:
            return None
        wrappers = [layer for layer in _layers(env)[:-1] if type(layer).__module__.startswith("gymnasium.")]
        before = [set(vars(wrapper)) for wrapper in wrappers]
        returned = call(set_task, env, task.copy())
        if not self._task_was_set:
            for wrapper, names in zip(wrappers, before, strict=True):
                for name in vars(wrapper).keys() - names:
                    raise NacreError(
                        f"{name_of(set_task)} set {name} on the wrapper {type(wrapper).__name__}, and not on "
                        f"{type(env.unwrapped).__name__} inside of it, which does not see it; set env.unwrapped.{name}."
                    )
            self._task_was_set = True
        return returned

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


class _DrawableGymnasiumWorld(_GymnasiumWorld):
    """Of environments that draw themselves. What a picture depends on is the picture, as nothing else is known."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.frames_per_second = float(self._envs[0].metadata.get("render_fps") or FRAMES_PER_SECOND)
        self._picture_shape: tuple[int, ...] = ()
        self._has_begun = False

    def begin(self, *arguments: Any) -> Any:
        self._has_begun = True
        return super().begin(*arguments)

    def configurations(self, slots: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n configuration"]:
        """The pictures of now."""
        pictures = np.array([self._picture(self._envs[slot]) for slot in slots])
        self._picture_shape = pictures.shape[1:]
        return pictures.reshape(len(slots), -1)

    def make_renderer(self, width: int, height: int) -> Renderer:
        if not self._has_begun:  # what cannot draw should say so before anything is played
            call(functools.partial(self._envs[0].reset, seed=0), named=self._envs[0].unwrapped.reset)
            self._picture(self._envs[0])
        return PictureRenderer(width, height, lambda: self._picture_shape)

    def _picture(self, env: gymnasium.Env) -> np.ndarray:
        source = env.unwrapped.render
        picture = numbers(source, "a picture", call(env.render, named=source), "height", "width", 3)
        if picture.dtype != np.uint8:
            raise NacreError(f"{name_of(source)} returned a picture of {picture.dtype}; allowed: uint8.")
        return reduced(picture)


def _check_told(name: str, set_task: Any, set_task_at: Any, reset_options: Any) -> None:
    if set_task_at not in ("before reset", "after reset"):
        raise NacreError(f"set_task_at of {name} is {set_task_at!r}; allowed: 'before reset' or 'after reset'.")
    if set_task is None and reset_options is None:
        raise NacreError(f"{name} needs set_task or reset_options: nothing tells its environment the task.")


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


def _observation_size(name: str, space: gymnasium.Space) -> int | tuple[int, int, int]:
    if isinstance(space, Box) and len(space.shape) == 3 and space.shape[2] == 3 and space.dtype == np.uint8:
        height, width, colours = space.shape
        return height, width, colours
    return _vector_space(name, "observation", space).shape[0]


def _observation_hint(space: gymnasium.Space) -> str:
    if isinstance(space, gymnasium.spaces.Dict):
        return (
            "choose parts of it with gymnasium.wrappers.FilterObservation, then make a vector of them with "
            "FlattenObservation. What tells the task, such as a desired goal, has to stay out: the agent should infer "
            "it."
        )
    if isinstance(space, Box) and len(space.shape) == 3:
        return "pictures are a Box of uint8 of the shape (height, width, 3)."
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
