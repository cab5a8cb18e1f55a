"""The names by which `gymnasium.make` knows nacre's task families. Registering imports no family."""

from __future__ import annotations

import gymnasium

ENVIRONMENTS = {
    "nacre/PointRobot-v0": ("point-robot", 20),
    "nacre/SparsePointRobot-v0": ("sparse-point-robot", 20),
    "nacre/HalfCheetahVel-v0": ("cheetah-vel", 200),
    "nacre/HalfCheetahVel10Hz-v0": ("cheetah-vel-10hz", 50),
    "nacre/HalfCheetahDir-v0": ("cheetah-dir", 200),
    "nacre/HalfCheetahMultiTask-v0": ("cheetah-multi-task", 200),
    "nacre/HalfCheetahRandDamping-v0": ("cheetah-rand-damping", 200),
    "nacre/HalfCheetahVelSparse-v0": ("cheetah-vel-sparse", 200),
    "nacre/HalfCheetahGoalSparse-v0": ("cheetah-goal-sparse", 200),
    "nacre/HalfCheetahMultiTaskSparse-v0": ("cheetah-multi-task-sparse", 200),
    "nacre/AntDir-v0": ("ant-dir", 200),
    "nacre/AntRandomDir-v0": ("ant-random-dir", 200),
    "nacre/AntGoal-v0": ("ant-goal", 200),
    "nacre/AntDirWithoutForces-v0": ("ant-dir-without-forces", 200),
    "nacre/AntRandomDirWithoutForces-v0": ("ant-random-dir-without-forces", 200),
    "nacre/AntGoalWithoutForces-v0": ("ant-goal-without-forces", 200),
    "nacre/AntDirWeighted-v0": ("ant-dir-weighted", 200),
    "nacre/AntVel-v0": ("ant-vel", 200),
    "nacre/AntVelSparse-v0": ("ant-vel-sparse", 200),
    "nacre/AntGoalSparse-v0": ("ant-goal-sparse", 200),
    "nacre/HumanoidDir-v0": ("humanoid-dir", 200),
    "nacre/HumanoidDirWithoutForces-v0": ("humanoid-dir-without-forces", 200),
    "nacre/Walker2dRandParams-v0": ("walker-rand-params", 200),
    "nacre/HopperRandParams-v0": ("hopper-rand-params", 200),
    "nacre/Walker2dVel-v0": ("walker-vel", 200),
    "nacre/HopperVel-v0": ("hopper-vel", 200),
    "nacre/Walker2dVelSparse-v0": ("walker-vel-sparse", 200),
    "nacre/HopperVelSparse-v0": ("hopper-vel-sparse", 200),
    "nacre/SawyerReachSparse-v0": ("sawyer-reach-sparse", 150),
    "nacre/SawyerPushSparse-v0": ("sawyer-push-sparse", 150),
    "nacre/SawyerReacher-v0": ("sawyer-reacher", 40),
    "nacre/SawyerPeg-v0": ("sawyer-peg", 40),
    "nacre/SawyerButtons-v0": ("sawyer-buttons", 40),
    "nacre/SawyerShelf-v0": ("sawyer-shelf", 40),
}
ENVIRONMENTS |= {
    name.replace("-v0", "Pixels-v0"): (f"{family}-pixels", horizon) for name, (family, horizon) in ENVIRONMENTS.items()
}
"""Family and horizon by Gymnasium's name. An environment ends its episodes itself, at the horizon that it is made with:
Gymnasium's own clock would know only this one."""


def register() -> None:
    """Registers every environment that is not registered yet."""
    for environment_id, (family, _) in ENVIRONMENTS.items():
        if environment_id not in gymnasium.registry:
            gymnasium.register(
                environment_id,
                entry_point="nacre.tasks.gymnasium:FamilyEnv",
                vector_entry_point="nacre.tasks.vector:FamilyVectorEnv",
                kwargs={"family": family},
            )
