"""A toy that MELD's tests learn from: a bar that actions move, in tasks in which all is good or bad, and the right a
little better."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from nacre.agents.meld.learner import MeldLearner
from nacre.types import Episode, Visit

HORIZON = 3
CONFIG: dict[str, Any] = {
    "base_depth": 4,
    "first_latent_size": 8,
    "second_latent_size": 8,
    "reward_repeats": 4,
    "episodes": 2,
    "episode_steps": HORIZON,
    "model_trials": 16,
    "policy_trials": 4,
    "policy_batch_size": 16,
    "hidden_size": 4,
    "initial_trials": 20,
    "rounds": 1,
    "model_learning_rate": 3e-3,
    "reward_deviation": 0.1,
}


def toy_visits(tasks: int, trials: int, seed: int) -> list[Visit]:
    generator = np.random.default_rng(seed)

    def episode(task: int) -> Episode:
        place = generator.integers(0, 13)
        pictures, rewards = [], []
        actions = generator.uniform(-1, 1, (HORIZON, 1)).astype(np.float32)
        for step in range(HORIZON + 1):
            if step:
                place = int(np.clip(place + round(2 * float(actions[step - 1, 0])), 0, 12))
                rewards.append((place - 6) / 12 + (0.5 if task % 2 else -0.5))
            picture = np.zeros((16, 16, 3), np.uint8)
            picture[:, place : place + 4] = 255
            pictures.append(picture)
        return Episode(np.stack(pictures), actions, np.array(rewards, np.float32), None, terminated=False)

    return [Visit(task, (episode(task), episode(task))) for _ in range(trials) for task in range(tasks)]


def quickly_compiled_state(learner: MeldLearner) -> Any:
    program = jax.jit(learner.initial_state).lower(jax.random.key(0))
    return program.compile({"xla_backend_optimization_level": "0"})(jax.random.key(0))
