"""What a trial becomes depends on nothing that is played beside it: not on its part of a play, on the order, on the
size of the blocks or on other seeds. On a CPU this holds to the last bit."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Bool, Float, Int32
from probes import NEVER, Clock

from nacre import seeds
from nacre.agents.pearl.agent import PearlAgent
from nacre.agents.pearl.config import PearlConfig
from nacre.agents.pearl.networks import ActingNetworks, initial_networks
from nacre.collect import play_together
from nacre.errors import SimulationError
from nacre.interfaces import MOST_ROWS, Play, Played, select
from nacre.runtime import SimulatorPool
from nacre.tasks import Simulator
from nacre.types import Episode, Key, Transition, Tree

HORIZON = 6
FAMILY = Clock(HORIZON, sparse=True)


class Counts(NamedTuple):
    """How often a trial was concerned by each kind of call, and a sum over everything that it was told."""

    begun: Int32[Array, " n"]
    acts: Int32[Array, " n"]
    observed: Int32[Array, " n"]
    ended: Int32[Array, " n"]
    told: Float[Array, " n"]


@dataclass(frozen=True)
class Counter:
    """Counts in its belief, also when it acts; what it does depends on all that it was told, and on its keys."""

    sees_sparse_reward: ClassVar[bool] = True
    sees_task: ClassVar[bool] = False

    def begin_trial(self, params: Array, keys: Key, tasks: Array | None) -> Counts:
        assert tasks is None
        return Counts(*[jnp.zeros(len(keys), jnp.int32)] * 4, told=_draws(keys))

    def begin_episode(self, params: Array, belief: Counts, keys: Key, mask: Bool[Array, " n"]) -> Counts:
        new = belief._replace(begun=belief.begun + 1, told=belief.told + _draws(keys))
        return select(mask, new, belief)

    def act(
        self,
        params: Array,
        belief: Counts,
        observation: Array,
        keys: Key,
        mask: Bool[Array, " n"],
        deterministic: bool,
    ) -> tuple[Float[Array, "n action"], Counts]:
        told = jnp.sin(belief.told + observation.sum(axis=1) + params)
        noise = jnp.zeros_like(told) if deterministic else _draws(keys)
        new = belief._replace(acts=belief.acts + 1, told=told)
        return jnp.stack([told, noise, told * noise], axis=1), select(mask, new, belief)

    def observe(self, params: Array, belief: Counts, transition: Transition, mask: Bool[Array, " n"]) -> Counts:
        told = belief.told + transition.reward + transition.sparse_reward + transition.next_observation.sum(axis=1)
        return select(mask, belief._replace(observed=belief.observed + 1, told=told), belief)

    def end_episode(self, params: Array, belief: Counts, keys: Key, mask: Bool[Array, " n"]) -> Counts:
        return select(mask, belief._replace(ended=belief.ended + 1, told=belief.told + _draws(keys)), belief)


def _draws(keys: Key) -> Float[Array, " n"]:
    return jax.vmap(jax.random.uniform)(keys)


def tasks_of(n: int) -> np.ndarray:
    """Tasks whose episodes have all lengths up to the horizon."""
    return np.array([[0.1 * number, (2, NEVER, 1, 5, HORIZON)[number % 5]] for number in range(n)])


def counting(n: int, seed: int = 0, *, param: float = 0.5, **changes: object) -> Play:
    play = Play(Counter(), jnp.float32(param), tasks_of(n), np.random.SeedSequence(seed), False, steps=9, episodes=2)
    return dataclasses.replace(play, **changes)


def played(*plays: Play) -> list[Played]:
    """Plays together, in a simulator of their own."""
    simulator = Simulator(FAMILY, sum(len(play.tasks) for play in plays), threads=1)
    results = play_together(plays, simulator)
    simulator.close()
    return results


def fields_of(episode: Episode) -> dict[str, np.ndarray | bool | None]:
    return {field.name: getattr(episode, field.name) for field in dataclasses.fields(episode)}


def assert_same(
    one: Sequence[Sequence[Episode]], one_belief: Tree, other: Sequence[Sequence[Episode]], other_belief: Tree
) -> None:
    """Everything is, to the bit."""
    for these, those in zip(one, other, strict=True):
        for this, that in zip(these, those, strict=True):
            for name, value in fields_of(this).items():
                np.testing.assert_array_equal(value, fields_of(that)[name], err_msg=name)
    for leaf, other_leaf in zip(*map(jax.tree.leaves, (one_belief, other_belief)), strict=True):
        np.testing.assert_array_equal(leaf, other_leaf)


def assert_parts_are_the_whole(whole: Play, parts: Sequence[Sequence[int]]) -> None:
    trials, belief = played(whole)[0]
    for part in parts:
        of_part, belief_of_part = played(whole.part(part))[0]
        expected = jax.tree.map(lambda leaf, part=part: leaf[np.array(part)], belief)
        assert_same(of_part, belief_of_part, [trials[trial] for trial in part], expected)


PARTS = {
    "one by one": [[trial] for trial in range(12)],
    "halves": [list(range(6)), list(range(6, 12))],
    "any order": [[7, 2, 11], [10, 1], [5], [9, 8, 6, 4, 3, 0]],
    "backwards": [list(reversed(range(12)))],
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_parts_of_a_play(parts: list[list[int]]) -> None:
    assert sorted(itertools.chain(*parts)) == list(range(12))
    assert_parts_are_the_whole(counting(12, keeps_reward_states=True, keeps_tasks=True), parts)


def test_a_part_of_a_part() -> None:
    whole = counting(12)
    part = whole.part([4, 9, 0, 7]).part([3, 1])
    assert part.numbers == (7, 9)
    assert_same(*played(part)[0], *played(whole.part([7, 9]))[0])


def test_trials_differ_by_their_numbers_alone() -> None:
    """The control: in equal tasks the trials of a play are not copies of each other, and those of a part are those of
    the whole because of their numbers."""
    whole = counting(3, tasks=tasks_of(1).repeat(3, axis=0))
    trials, _ = played(whole)[0]
    assert len({trial[0].actions.tobytes() for trial in trials}) == 3
    assert len({float(trial[0].observations[0, 1]) for trial in trials}) == 3
    renumbered = dataclasses.replace(whole.part([2]), numbers=(0,))
    assert_same(played(renumbered)[0].trials, None, trials[:1], None)


@pytest.mark.parametrize("n", [MOST_ROWS + 1, MOST_ROWS + 8])
def test_parts_of_a_play_in_several_blocks(n: int) -> None:
    whole = counting(n)
    assert whole.rows_per_call == MOST_ROWS
    order = np.random.default_rng(0).permutation(n).tolist()
    assert_parts_are_the_whole(whole, [order, order[:3], [n - 1], [0]])


@pytest.mark.parametrize("rows", [1, 5, 12, 20])
def test_rows_that_fill_a_block_have_no_effect(rows: int) -> None:
    """Sums over the columns of one row do not depend on the number of rows: here blocks of all sizes are the same."""
    assert_same(*played(counting(12, rows=rows))[0], *played(counting(12))[0])


def test_a_belief_is_continued_in_parts() -> None:
    _, belief = played(counting(12))[0]
    later = counting(12, seed=1, belief=belief, steps=4, episodes=1)
    for parts in PARTS.values():
        assert_parts_are_the_whole(later, parts)
    # Beliefs that go on are not given away: they can be continued a second time.
    assert (played(later)[0].belief.acts > belief.acts).all()


@pytest.mark.parametrize("n", [5, MOST_ROWS + 3])
def test_several_plays_are_each_alone(n: int) -> None:
    plays = [counting(n, seed, param=seed, tasks=tasks_of(n)[::order]) for seed, order in ((0, 1), (1, -1), (2, 1))]
    for alone, together in zip([played(play)[0] for play in plays], played(*plays), strict=True):
        assert_same(*together, *alone)


def test_parts_of_several_plays() -> None:
    plays = [counting(12, seed, param=seed) for seed in range(2)]
    parts = [play.part([8, 3, 4]) for play in plays]
    for play, together in zip(plays, played(*parts), strict=True):
        trials, belief = played(play)[0]
        expected = jax.tree.map(lambda leaf: leaf[np.array([8, 3, 4])], belief)
        assert_same(*together, [trials[trial] for trial in (8, 3, 4)], expected)


def test_several_plays_in_one_call_are_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU; this agent adds up the columns of a row in the same order there."""
    plays = [counting(5, seed, param=seed) for seed in range(3)]
    alone = [played(play)[0] for play in plays]
    monkeypatch.setattr(seeds, "current_platform", lambda: "gpu")
    for one, together in zip(alone, played(*plays), strict=True):
        for these, those in zip(one.trials, together.trials, strict=True):
            assert [len(episode) for episode in these] == [len(episode) for episode in those]
            for this, that in zip(these, those, strict=True):
                np.testing.assert_allclose(this.actions, that.actions, atol=1e-4)
                np.testing.assert_array_equal(this.observations[:, :3], that.observations[:, :3])
        for count in ("begun", "acts", "observed", "ended"):
            np.testing.assert_array_equal(getattr(one.belief, count), getattr(together.belief, count))


@pytest.mark.parametrize(("n", "most", "size"), [(7, 4, 4), (5, 1, 1)])
def test_trials_in_turns_are_the_whole(n: int, most: int, size: int) -> None:
    plays = [counting(n, seed, param=seed) for seed in range(2)]
    family = Clock(HORIZON, sparse=True)
    family.most_slots = most
    pool = SimulatorPool(family, 1)
    for whole, in_turns in zip(played(*plays), pool.play(plays), strict=True):
        assert_same(*in_turns, *whole)
    assert list(pool._simulators) == [size]
    pool.close()


def test_an_error_in_a_turn_is_placed_in_its_play() -> None:
    class Large(Clock):
        def reward(self, previous: Any, action: Any, following: Any, task: Any) -> Any:
            return np.where(task[..., 0] > 0.45, np.inf, 0.0)

    family = Large(HORIZON, sparse=True)
    family.most_slots = 2
    good = counting(5, tasks=np.tile([[0.0, NEVER]], (5, 1)))
    pool = SimulatorPool(family, 1)
    with pytest.raises(SimulationError) as error:
        pool.play([good, counting(5, tasks=np.array([[0.0, NEVER]] * 4 + [[0.5, NEVER]]))])
    assert (error.value.part, error.value.slot) == (1, 4)


@pytest.mark.parametrize("batched", [False, True])
def test_resting_trials_are_left_alone(batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial acts and observes once for each of its steps, however long the others go on."""
    if batched:
        monkeypatch.setattr(seeds, "current_platform", lambda: "gpu")
    for trials, belief in played(counting(MOST_ROWS + 3, 0), counting(MOST_ROWS + 3, 1)):
        steps = [sum(map(len, trial)) for trial in trials]
        assert len(set(steps)) > 2
        np.testing.assert_array_equal(belief.acts, steps)
        np.testing.assert_array_equal(belief.observed, steps)
        episodes = [len(trial) for trial in trials]
        np.testing.assert_array_equal(belief.begun, episodes)
        np.testing.assert_array_equal(belief.ended, episodes)


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("tasks", [False, True])
def test_reward_states_and_tasks_are_kept_on_request(states: bool, tasks: bool) -> None:
    trials, _ = played(counting(7, keeps_reward_states=states, keeps_tasks=tasks))[0]
    for trial, task in zip(trials, tasks_of(7), strict=True):
        for episode in trial:
            if states:
                np.testing.assert_array_equal(episode.reward_states, np.arange(len(episode) + 1.0)[:, None])
                before, after = episode.reward_states[:-1], episode.reward_states[1:]
                rewards = FAMILY.reward(before, episode.actions, after, task)
                np.testing.assert_array_equal(rewards.astype(np.float32), episode.rewards)
            else:
                assert episode.reward_states is None
            if tasks:
                np.testing.assert_array_equal(episode.tasks, np.tile(task, (len(episode), 1)))
            else:
                assert episode.tasks is None


def test_successes_are_kept_of_every_step() -> None:
    trials, _ = played(counting(7))[0]
    for trial in trials:
        for episode in trial:
            expected = np.arange(len(episode)) == (len(episode) - 1 if episode.terminated else -1)
            np.testing.assert_array_equal(episode.successes, expected)
    simulator = Simulator(Clock(HORIZON), 7, threads=1)
    trials, _ = play_together([counting(7)], simulator)[0]
    assert all(episode.successes is None for trial in trials for episode in trial)


# Networks as wide as the published ones: the rows of their products do depend on the number of rows


CONFIG = PearlConfig(latent_size=5, hidden_size=300, encoder_hidden_size=200)


@pytest.fixture(scope="module")
def wide() -> tuple[PearlAgent, ActingNetworks]:
    """With weights that let every rounding be felt in the actions."""
    networks = initial_networks(CONFIG, FAMILY.sizes, key=jax.random.key(0), precision="float32").acting
    leaves, structure = jax.tree.flatten(networks)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [leaf + 0.05 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return PearlAgent(CONFIG, FAMILY.sizes, 30, exploration_episodes=1), jax.tree.unflatten(structure, leaves)


def wide_play(wide: tuple[PearlAgent, ActingNetworks], n: int, seed: int = 0) -> Play:
    return Play(*wide, tasks_of(n), np.random.SeedSequence(seed), deterministic=False, steps=9, episodes=2)


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_parts_of_pearl(wide: tuple[PearlAgent, ActingNetworks], parts: list[list[int]]) -> None:
    whole = wide_play(wide, 12)
    assert_parts_are_the_whole(whole, parts)
    later = dataclasses.replace(wide_play(wide, 12, seed=1), belief=played(whole)[0].belief, deterministic=True)
    assert_parts_are_the_whole(later, parts[:2])


def test_parts_of_pearl_in_several_blocks(wide: tuple[PearlAgent, ActingNetworks]) -> None:
    n = MOST_ROWS + 8
    assert_parts_are_the_whole(wide_play(wide, n), [[n - 1], [0, n - 2], list(reversed(range(n)))])


def test_plays_of_pearl_together_are_each_alone(wide: tuple[PearlAgent, ActingNetworks]) -> None:
    plays = [wide_play(wide, 12, seed) for seed in range(3)]
    for play, together in zip(plays, played(*plays), strict=True):
        assert_same(*together, *played(play)[0])
