"""Whether an installed nacre works: it trains, stops, resumes, evaluates, plays, and draws if there is OpenGL."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # programs run for an instant, and compilation takes long
os.environ["JAX_PLATFORMS"] = "cpu"

import gymnasium

import nacre

SIZES = {
    "iterations": 2,
    "train_tasks": 3,
    "test_tasks": 2,
    "hidden_size": 8,
    "encoder_hidden_size": 8,
    "initial_steps": 40,
    "tasks_per_iteration": 2,
    "prior_steps": 20,
    "extra_posterior_steps": 20,
    "updates_per_iteration": 4,
    "update_chunk": 4,
    "meta_batch_size": 2,
    "batch_size": 8,
    "context_size": 8,
    "threads": 1,
}


def main() -> None:
    root = Path(__file__).parents[1]
    assert not Path(nacre.__file__).is_relative_to(root / "src"), "nacre is not installed: this is the source"
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        experiment = nacre.make_experiment("pearl/point-robot", **SIZES)
        nacre.train(experiment, run, on_iteration=lambda iteration: "stop")
        nacre.resume(run)
        evaluation = nacre.evaluate(run)
        assert evaluation.returns_by_episode.shape == (2, 3)
        print(evaluation)
        agent = nacre.load(run)
        print(nacre.play(agent, gymnasium.make("nacre/PointRobot-v0"), seed=0), agent)
    env = gymnasium.make("nacre/HalfCheetahVel-v0", render_mode="rgb_array" if "--draw" in sys.argv else None)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    if "--draw" in sys.argv:
        assert env.render().std() > 5
    env.close()


if __name__ == "__main__":
    main()
