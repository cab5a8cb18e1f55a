"""The names by which `gymnasium.make` knows nacre's task families. Registering imports no family."""

from __future__ import annotations

import gymnasium

ENVIRONMENTS = {
    "nacre/PointRobot-v0": ("point-robot", 20),
    "nacre/SparsePointRobot-v0": ("sparse-point-robot", 20),
    "nacre/HalfCheetahVel-v0": ("cheetah-vel", 200),
    "nacre/HalfCheetahDir-v0": ("cheetah-dir", 200),
}
"""Family and horizon by Gymnasium's name."""


def register() -> None:
    """Registers every environment that is not registered yet."""
    for environment_id, (family, horizon) in ENVIRONMENTS.items():
        if environment_id not in gymnasium.registry:
            gymnasium.register(
                environment_id,
                entry_point="nacre.tasks.gymnasium:make_environment",
                max_episode_steps=horizon,
                kwargs={"family": family},
            )
