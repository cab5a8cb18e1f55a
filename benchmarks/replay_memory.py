"""How much memory the replay takes for what it holds: `python benchmarks/replay_memory.py [--experiment NAME]`.

Fills a replay as a published run does (by default pearl/cheetah-vel: 100 tasks, 2.7 million transitions in episodes
of 200 steps) with random numbers, a task's visit at a time, and compares three sizes:

- content: what there is to know of the transitions, without next observations, which are the observations of the
  following rows: (observation + action + 1 reward) float32 and 1 byte for `terminated` per transition;
- arrays:  everything the replay keeps on the device, room that is not used yet, page table and indices included;
- resident: the growth of the process's peak resident memory, from before the replay is made to after the last
  addition; the programs that write are compiled in between and are in it.
"""

from __future__ import annotations

import argparse
import resource
import sys

import jax
import numpy as np
from machine import machine

from nacre.experiments import Experiment, make_experiment
from nacre.replay import ReplayBuffer
from nacre.runtime import learner_for
from nacre.tasks import make_family
from nacre.types import Episode, Visit


def content_bytes(transitions: int, observation_size: int, action_size: int) -> int:
    return transitions * (4 * (observation_size + action_size + 1) + 1)


def array_bytes(buffer: ReplayBuffer) -> int:
    return sum(array.nbytes for array in jax.tree.leaves(buffer.arrays))


def planned_buffer(experiment: Experiment) -> ReplayBuffer:
    """The empty replay of a run, as `nacre train` makes it."""
    family = make_family(experiment.family)
    tasks = np.zeros((experiment.train_tasks, family.sizes.task))  # only how many there are counts
    memory = learner_for(experiment, family).memory(family, tasks, experiment.iterations)
    assert isinstance(memory, ReplayBuffer)
    return memory


def filled_buffer(experiment: Experiment) -> ReplayBuffer:
    """The replay at the end of a run whose episodes all last to the horizon."""
    family, config = make_family(experiment.family), experiment.algorithm
    generator = np.random.default_rng(0)

    def visit(task: int, steps: tuple[int, ...]) -> Visit:
        episodes = [-(-phase // family.horizon) for phase in steps]
        context_episodes = sum(episodes[:2])
        return Visit(task, tuple(episode() for _ in range(sum(episodes))), context_episodes)

    def episode() -> Episode:
        length = family.horizon
        rewards = generator.random(length, np.float32)
        return Episode(
            observations=generator.random((length + 1, family.observation_size), np.float32),
            actions=generator.random((length, family.action_size), np.float32),
            rewards=rewards,
            sparse_rewards=rewards if family.has_sparse_reward else None,
            terminated=False,
        )

    buffer = planned_buffer(experiment)
    for task in range(experiment.train_tasks):
        buffer.add([visit(task, (config.initial_steps,))])
    phases = (config.prior_steps, config.posterior_steps, config.extra_posterior_steps)
    for _ in range(experiment.iterations):
        tasks = generator.integers(experiment.train_tasks, size=config.tasks_per_iteration)
        for task in tasks:
            buffer.add([visit(int(task), phases)])
    return buffer


def peak_resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="pearl/cheetah-vel", help="a named experiment")
    name = parser.parse_args().experiment
    experiment = make_experiment(name)
    family = make_family(experiment.family)
    filled_buffer(make_experiment(name, train_tasks=1, iterations=1))  # loads and compiles
    before = peak_resident_bytes()
    buffer = filled_buffer(experiment)
    jax.block_until_ready(buffer.arrays)
    resident = peak_resident_bytes() - before

    content = content_bytes(buffer.transitions, family.observation_size, family.action_size)
    print(f"{name}: {buffer.transitions:,} transitions of {experiment.train_tasks} tasks; {machine()}")
    for label, size in (("content", content), ("arrays", array_bytes(buffer)), ("resident", resident)):
        print(f"{label:>10}{size / 2**20:10.1f} MiB{size / content:8.3f} x content")


if __name__ == "__main__":
    main()
