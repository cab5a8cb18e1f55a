"""Plays agents in simulators: trials of whole episodes, all slots together.

Agents of several seeds share one simulator. A call of an agent serves the trials of one play, in blocks of
:attr:`Play.rows_per_call`; on a GPU it serves those of all seeds at once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Real

from nacre import acting
from nacre.errors import SimulationError
from nacre.interfaces import Agent, Play, Played, Result, Schedule
from nacre.seeds import batched, child, key_of, stack
from nacre.tasks.simulator import Simulator
from nacre.types import Episode, Transition, Tree

Player = Callable[[Sequence[Play]], list[Played]]
"""Plays what several seeds ask for."""


def run_schedules(schedules: Sequence[Schedule[Result]], play: Player) -> list[Result]:
    """Runs schedules that differ in their seeds, tasks and parameters alone; returns what they return.

    Raises:
        SimulationError: a quantity is not finite; `part` is the index of the schedule that it belongs to.
        ValueError: the schedules have different numbers of plays.
    """
    answers: list[Any] = [None] * len(schedules)
    while True:
        plays: list[Play] = []
        results: list[Result] = []
        for schedule, answer in zip(schedules, answers, strict=True):
            try:
                plays.append(schedule.send(answer))
            except StopIteration as end:
                results.append(end.value)
        if not plays:
            return results
        if results:
            raise ValueError("schedules that are run together have equally many plays")
        answers = play(plays)


def drawing_from(schedule: Schedule[Result], pool: Float64[np.ndarray, "_ parameters"]) -> Schedule[Result]:
    """The schedule, with plays in which changes of tasks draw from `pool`, unless a play says itself what they draw
    from."""
    answer: Any = None
    while True:
        try:
            play = schedule.send(answer)
        except StopIteration as end:
            return end.value
        answer = yield play if play.pools is not None else dataclasses.replace(play, pools=(pool,) * len(play.tasks))


def play_together(plays: Sequence[Play], simulator: Simulator) -> list[Played]:
    """Plays what several seeds ask for, in as many slots as they have tasks together.

    Slots that have had enough rest while the others go on. Each trial becomes what it would become alone.

    Raises:
        ValueError: the plays differ in more than their seeds, tasks, parameters and beliefs.
        SimulationError: a quantity is not finite; `part` is the index of the play that it belongs to, and `slot` is
            counted in that play.
    """
    n = len(plays[0].tasks)
    check_alike(plays)
    try:
        return _play(plays, simulator)
    except SimulationError as error:
        part, slot = divmod(error.slot, n)
        raise error.moved(slot=slot, part=part) from error


def play_in_turns(play: Play, index: int, size: int, simulator: Simulator) -> Played:
    """Plays what one seed asks for in a simulator of `size` slots, some trials after others. Each becomes what it would
    become if all were played together.

    Args:
        index: of the play among those of several seeds, for errors.

    Raises:
        SimulationError: a quantity is not finite; `part` is `index`, and `slot` is counted in the play.
    """
    trials, beliefs, n = [], [], len(play.tasks)
    for start in range(0, n, size):
        turn = [min(trial, n - 1) for trial in range(start, start + size)]  # the last is repeated, without effect
        try:
            [played] = play_together([play.part(turn)], simulator)
        except SimulationError as error:
            raise error.moved(slot=turn[error.slot], part=index) from error
        kept = min(size, n - start)
        trials += played.trials[:kept]
        beliefs.append(jax.tree.map(lambda leaf, kept=kept: leaf[:kept], played.belief))
    return Played(trials, _join(beliefs))


def check_alike(plays: Sequence[Play]) -> None:
    """Raises ValueError if plays of several seeds differ in more than their seeds, tasks, parameters and beliefs."""
    for play in plays:
        if _terms(play) != _terms(plays[0]):
            raise ValueError("plays of several seeds differ in their seeds, tasks, parameters and beliefs alone")


def _terms(play: Play) -> tuple[Any, ...]:
    return (
        play.agent,
        play.deterministic,
        play.steps,
        play.episodes,
        play.keeps_reward_states,
        play.keeps_tasks,
        len(play.tasks),
        play.rows_per_call,
        play.numbers,
    )


def _play(plays: Sequence[Play], simulator: Simulator) -> list[Played]:
    first, n = plays[0], len(plays[0].tasks)
    actors = _actors(plays)
    tasks = np.concatenate([play.tasks for play in plays])
    numbers = range(n) if first.numbers is None else first.numbers
    seeds = [child(play.seed, 1, number) for play in plays for number in numbers]
    pools = [pool for play in plays for pool in play.pools or [None] * n]
    observation, _ = simulator.reset(seed=seeds, options={"tasks": tasks, "pools": pools})
    keeps_tasks = first.keeps_tasks or simulator.family.shift is not None

    slots = len(observation)
    recorder = _Recorder(slots)
    transition = _no_transition(simulator)
    actions = np.zeros((slots, simulator.family.action_size), np.float32)
    fresh = np.zeros(slots, bool)  # trials whose `transition` has not been observed yet
    playing = ~fresh
    time = 0
    while playing.any():
        time += 1
        for actor in actors:
            actor.act(transition, fresh, observation, playing, time, actions)
        before = simulator.reward_states if first.keeps_reward_states else None
        following, reward, terminated, truncated, infos = simulator.step(actions)
        reward = reward.astype(np.float32)
        sparse_reward = infos["sparse_reward"].astype(np.float32) if "sparse_reward" in infos else reward
        transition = Transition._make((observation, actions.copy(), reward, sparse_reward, following, terminated))
        recorder.record(
            _Step(
                transition,
                infos.get("success"),
                before,
                None if before is None else simulator.reward_states,
                simulator.tasks if keeps_tasks else None,
            )
        )
        fresh = playing
        observation = following
        ended = playing & (terminated | truncated)
        if ended.any():
            recorder.cut(ended, terminated)
            playing = playing & ~(ended & (recorder.steps >= first.steps) & (recorder.episodes >= first.episodes))
            begins = ended & playing
            for actor in actors:
                actor.end_episode(transition, ended, begins, time)
            fresh = fresh & ~ended
            if begins.any():
                observation, _ = simulator.reset(options={"reset_mask": begins})
    trials = recorder.trials(simulator.family.has_sparse_reward)
    return [
        Played(
            trials[part * n : (part + 1) * n], _join([actor.belief(part) for actor in actors if part in actor.parts])
        )
        for part in range(len(plays))
    ]


def _actors(plays: Sequence[Play]) -> list[_Actor]:
    """Agents for all trials: on a GPU one for all plays, otherwise one for each block of each play."""
    n, rows = len(plays[0].tasks), plays[0].rows_per_call
    if batched(len(plays)):
        return [_Actor(plays, range(len(plays)), np.arange(n), n)]
    return [
        _Actor([play], [part], np.arange(start, min(start + rows, n)), rows)
        for part, play in enumerate(plays)
        for start in range(0, n, rows)
    ]


class _Actor:
    """The agents of some trials: of one play, or the same trials of the plays of several seeds.

    Every call has `rows` rows; if there are fewer trials, the last is repeated without effect.
    """

    def __init__(self, plays: Sequence[Play], parts: Sequence[int], trials: Int[np.ndarray, " trials"], rows: int):
        """`parts` are the indices of `plays` among all plays."""
        first, n = plays[0], len(plays[0].tasks)
        self.parts = parts
        self._trials = len(trials)
        self._targets = np.array([part * n + trials for part in parts]).reshape(-1)
        padded = np.append(trials, np.full(rows - len(trials), trials[-1]))
        self._real = np.arange(rows) < len(trials)
        self._several = len(plays) > 1
        slots = np.array([part * n + padded for part in parts])  # (plays, rows)
        contiguous = not self._several and len(trials) == rows
        self._slots: Any = slice(slots[0, 0], slots[0, 0] + rows) if contiguous else slots
        if not self._several and not contiguous:
            self._slots = slots[0]
        self._programs = functools.partial(_program, agent=first.agent, several=self._several)
        self._deterministic = first.deterministic
        self._params = stack([play.params for play in plays]) if self._several else first.params

        numbers = padded if first.numbers is None else np.array(first.numbers)[padded]
        keys, beliefs = [], []
        for play in plays:
            keys.append(_trial_keys(key_of(child(play.seed, 0)), numbers.astype(np.int32)))
            beliefs.append(self._first_belief(play, keys[-1], padded))
        self._keys = stack(keys) if self._several else keys[0]
        self._belief: Tree = stack(beliefs) if self._several else beliefs[0]

    def act(
        self,
        transition: Transition,
        fresh: Bool[np.ndarray, " slots"],
        observation: Real[np.ndarray, "slots *observation"],
        playing: Bool[np.ndarray, " slots"],
        time: int,
        actions: Float32[np.ndarray, "slots action"],
    ) -> None:
        """Observes the last transitions and acts, writing into `actions`. Agents whose trials are all over rest."""
        mask = self._of_slots(playing) & self._real
        if not mask.any():
            return
        action, self._belief = self._programs(acting.observe_and_act, deterministic=self._deterministic)(
            self._params,
            self._belief,
            Transition._make(map(self._of_slots, transition)),
            self._of_slots(fresh) & self._real,
            self._of_slots(observation),
            self._keys,
            np.int32(time),
            mask,
        )
        actions[self._targets] = np.asarray(action)[..., : self._trials, :].reshape(len(self._targets), -1)

    def end_episode(
        self,
        transition: Transition,
        ended: Bool[np.ndarray, " slots"],
        begins: Bool[np.ndarray, " slots"],
        time: int,
    ) -> None:
        """Observes the last transitions of the episodes that ended, and begins the next ones."""
        mask = self._of_slots(ended) & self._real
        if mask.any():
            self._belief = self._programs(acting.observe_and_end_episode)(
                self._params,
                self._belief,
                Transition._make(map(self._of_slots, transition)),
                self._keys,
                np.int32(time),
                mask,
                self._of_slots(begins) & self._real,
            )

    def belief(self, part: int) -> Tree:
        """The beliefs of the trials of one of the plays."""
        index = self.parts.index(part)
        belief = jax.tree.map(lambda leaf: leaf[index], self._belief) if self._several else self._belief
        if self._trials == len(self._real):
            return belief
        return jax.tree.map(lambda leaf: leaf[: self._trials], belief)

    def _first_belief(self, play: Play, keys: Any, padded: Int[np.ndarray, " rows"]) -> Tree:
        tasks = play.tasks[padded].astype(np.float32)
        if play.belief is None:
            return _begin(play.agent, play.params, keys, tasks)
        belief = jax.tree.map(lambda leaf: leaf[padded], play.belief)
        return _begin_episode(play.agent, play.params, belief, keys)

    def _of_slots(self, column: Any) -> Any:
        """An array by slot as an array by row, or by play and row."""
        return column[self._slots]


class _Step(NamedTuple):
    """One time step of all slots."""

    transition: Transition
    success: Bool[np.ndarray, " slots"] | None
    reward_states: Float64[np.ndarray, "slots reward_state"] | None
    next_reward_states: Float64[np.ndarray, "slots reward_state"] | None
    tasks: Float64[np.ndarray, "slots parameters"] | None


class _Recorder:
    """Keeps every time step of all slots, and cuts them into episodes at the end."""

    def __init__(self, slots: int):
        self.steps = np.zeros(slots, int)
        self.episodes = np.zeros(slots, int)
        self._rows: list[_Step] = []
        self._starts = np.zeros(slots, int)
        self._cuts: list[list[tuple[int, int, bool]]] = [[] for _ in range(slots)]

    def record(self, step: _Step) -> None:
        self._rows.append(step)

    def cut(self, ended: Bool[np.ndarray, " slots"], terminated: Bool[np.ndarray, " slots"]) -> None:
        """Ends the episode of each slot of `ended` with the latest time step."""
        now = len(self._rows)
        for slot in np.flatnonzero(ended):
            self._cuts[slot].append((int(self._starts[slot]), now, bool(terminated[slot])))
        self.steps[ended] += now - self._starts[ended]
        self.episodes[ended] += 1
        self._starts[ended] = now

    def trials(self, has_sparse_reward: bool) -> list[list[Episode]]:
        """The episodes of each slot."""
        first = self._rows[0]
        columns: Any = Transition._make(map(np.stack, zip(*(row.transition for row in self._rows), strict=True)))
        successes = None if first.success is None else _stacked([row.success for row in self._rows])
        states = None if first.reward_states is None else _stacked([row.reward_states for row in self._rows])
        tasks = None if first.tasks is None else _stacked([row.tasks for row in self._rows])

        def episode(slot: int, start: int, end: int, terminated: bool) -> Episode:
            last, steps = self._rows[end - 1], slice(start, end)
            return Episode(
                observations=_with_last(columns.observation[steps, slot], last.transition.next_observation[slot]),
                actions=columns.action[steps, slot],
                rewards=columns.reward[steps, slot],
                sparse_rewards=columns.sparse_reward[steps, slot] if has_sparse_reward else None,
                terminated=terminated,
                successes=None if successes is None else successes[steps, slot],
                reward_states=None
                if states is None or last.next_reward_states is None
                else _with_last(states[steps, slot], last.next_reward_states[slot]),
                tasks=None if tasks is None else tasks[steps, slot],
            )

        return [[episode(slot, *cut) for cut in cuts] for slot, cuts in enumerate(self._cuts)]


def _stacked(rows: Sequence[np.ndarray | None]) -> np.ndarray:
    return np.stack([row for row in rows if row is not None])


def _with_last(rows: Any, last: Any) -> Any:
    return np.concatenate([rows, last[None]])


def _join(beliefs: Sequence[Tree]) -> Tree:
    return beliefs[0] if len(beliefs) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *beliefs)


def _no_transition(simulator: Simulator) -> Transition:
    """Zeros in the shape of a transition, for the first call, so that it is compiled only once."""
    n, family = simulator.num_envs, simulator.family
    observation = np.zeros((n, *family.observation_shape), family.observation_dtype)
    reward = np.zeros(n, np.float32)
    action = np.zeros((n, family.action_size), np.float32)
    return Transition._make((observation, action, reward, reward, observation, np.zeros(n, bool)))


@functools.lru_cache(maxsize=64)
def _program(function: Callable[..., Any], agent: Agent, several: bool, **last: Any) -> Callable[..., Any]:
    """`function(agent, params, belief, ...)`, compiled; the belief is donated. For several seeds at once arrays have a
    leading axis of seeds, except the time."""

    def call(params: Tree, belief: Tree, *arrays: Any) -> Any:
        return function(agent, params, belief, *arrays, **last)

    if several:
        call = _over_seeds(call, function)
    return jax.jit(call, donate_argnums=1)


def _over_seeds(call: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    time = {acting.observe_and_act: 6, acting.observe_and_end_episode: 4}[function]

    def mapped(*arguments: Any) -> Any:
        axes = tuple(None if index == time else 0 for index in range(len(arguments)))
        return jax.vmap(call, in_axes=axes)(*arguments)

    return mapped


@jax.jit
def _trial_keys(key: Any, numbers: Any) -> Any:
    return acting.trial_keys(key, numbers)


@functools.partial(jax.jit, static_argnames="agent")
def _begin(agent: Agent, params: Tree, keys: Any, tasks: Any) -> Tree:
    return acting.begin(agent, params, keys, tasks)


@functools.partial(jax.jit, static_argnames="agent", donate_argnames="belief")
def _begin_episode(agent: Agent, params: Tree, belief: Tree, keys: Any) -> Tree:
    return acting.begin_episode(agent, params, belief, keys, jnp.int32(0), jnp.ones(len(keys), bool))
