"""How much of a bare mj_step loop the simulator keeps: `python benchmarks/simulator.py [--policy]`.

Three ways to step the same half-cheetahs through the same 200 control steps, each from the same starts with the
same constant actions, on the same number of threads, in turns so that a noisy machine disturbs all alike:

- free:    each thread loops `mj_step(model, data, 5)` over its own share of the slots and never waits for the others;
- joined:  the same, but all threads wait for each other after every control step, as any policy makes them;
- nacre:   `Simulator.step`, with observations, rewards, checks and time limit.

With `--policy` a fourth: `Simulator.step` with actions from a tanh-Gaussian policy of three layers of 300, one compiled
call per control step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np
from machine import OtherWork, machine

from nacre.tasks.cheetah import FRAME_SKIP, CheetahVel
from nacre.tasks.mujoco import ASSETS
from nacre.tasks.simulator import Simulator, physical_cores

STEPS = CheetahVel.horizon


class BareLoop:
    """The slots of a simulator as nothing but MjData, and threads that call mj_step on them."""

    def __init__(self, n_slots: int, threads: int) -> None:
        self._model = mujoco.MjModel.from_xml_path(str(ASSETS / "half_cheetah.xml"))
        self._datas = [mujoco.MjData(self._model) for _ in range(n_slots)]
        self._threads = min(threads, n_slots)
        self._pool = ThreadPoolExecutor(self._threads)
        self._shares = [self._datas[first :: self._threads] for first in range(self._threads)]

    def reset(self, actions: np.ndarray, seed: int) -> None:
        children = np.random.SeedSequence(seed).spawn(len(actions))
        for data, action, child in zip(self._datas, actions, children, strict=True):
            generator = np.random.default_rng(child)
            mujoco.mj_resetData(self._model, data)
            data.qpos[:] = self._model.qpos0 + generator.uniform(-0.1, 0.1, self._model.nq)
            data.qvel[:] = 0.1 * generator.standard_normal(self._model.nv)
            data.ctrl[:] = action
            mujoco.mj_forward(self._model, data)

    def run_free(self) -> None:
        self._all_threads(STEPS)

    def run_joined(self) -> None:
        for _ in range(STEPS):
            self._all_threads(1)

    def _all_threads(self, steps: int) -> None:
        futures = [self._pool.submit(self._advance, share, steps) for share in self._shares[1:]]
        self._advance(self._shares[0], steps)
        for future in futures:
            future.result()

    def _advance(self, share: list[mujoco.MjData], steps: int) -> None:
        for _ in range(steps):
            for data in share:
                mujoco.mj_step(self._model, data, FRAME_SKIP)

    def torso_positions(self) -> np.ndarray:
        return np.array([data.body("torso").xpos for data in self._datas])

    def close(self) -> None:
        self._pool.shutdown()


def make_policy(n_slots: int) -> Callable[[np.ndarray], np.ndarray]:
    """Actions of a policy of three layers of 300, for observations and a fixed z, drawn as while collecting."""
    import jax
    import jax.numpy as jnp

    from nacre.rl.policy import TanhGaussianPolicy

    policy = TanhGaussianPolicy(25, CheetahVel.action_size, (300,) * 3, key=jax.random.key(0), precision="float32")
    z = jnp.zeros((n_slots, 5))
    key = jax.random.key(1)

    @jax.jit
    def act(policy, observations, key):
        key, action_key = jax.random.split(key)
        return policy.sample(jnp.concatenate([observations, z], axis=-1), action_key).action, key

    def actions(observations: np.ndarray) -> np.ndarray:
        nonlocal key
        drawn, key = act(policy, observations, key)
        return np.asarray(drawn)

    return actions


def measure(n_slots: int = 20, threads: int | None = None, rounds: int = 15, policy: bool = False) -> dict[str, float]:
    """Control steps per second of all slots together for each way of stepping, medians over rounds of 200 steps.

    Also the ratios of `nacre`, and of `policy` if it is measured, to `free` and `joined`.
    """
    threads = physical_cores() if threads is None else threads
    family = CheetahVel()
    simulator = Simulator(family, n_slots, threads)
    bare = BareLoop(n_slots, threads)
    actions = np.random.default_rng(0).uniform(-1, 1, (n_slots, family.action_size)).astype(np.float32)
    tasks = family.sample_tasks(np.random.default_rng(1), n_slots)
    simulator.reset(seed=0, options={"tasks": tasks})

    def run_simulator() -> None:
        for _ in range(STEPS):
            simulator.step(actions)

    ways = {"free": bare.run_free, "joined": bare.run_joined, "nacre": run_simulator}
    if policy:
        act = make_policy(n_slots)

        def run_simulator_with_policy() -> None:
            observations, _ = simulator.reset(seed=0)
            for _ in range(STEPS):
                observations, *_ = simulator.step(act(observations))

        run_simulator_with_policy()  # compiles
        ways["policy"] = run_simulator_with_policy

    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            bare.reset(actions, seed=0)
            simulator.reset(seed=0)
            start = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - start)
            if way == "joined":
                bare_end = bare.torso_positions()
            if way == "nacre":
                # All slots are frozen by now, so this shows where they are.
                end = simulator.step(actions)[0][:, -3:]
                assert np.array_equal(bare_end.astype(np.float32), end), "the two loops did different physics"
    bare.close()
    simulator.close()

    rates = {way: n_slots * STEPS / statistics.median(times) for way, times in seconds.items()}
    ours = ("nacre", "policy") if policy else ("nacre",)
    return rates | {f"{way} / {bare}": rates[way] / rates[bare] for way in ours for bare in ("free", "joined")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", action="store_true", help="also measure with a policy in the loop")
    parser.add_argument("--slots", type=int, nargs="+", default=[20, 1, 100], help="numbers of slots to measure")
    parser.add_argument("--threads", type=int, default=None, help="threads (default: physical cores)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of 200 control steps for each way")
    arguments = parser.parse_args()

    others = OtherWork()
    print(f"half-cheetah, control steps per second, medians of {arguments.rounds} rounds,", end=" ")
    print(f"{arguments.threads or physical_cores()} threads, MuJoCo {mujoco.__version__}, {machine()}")
    for index, n_slots in enumerate(arguments.slots):
        row = measure(n_slots, arguments.threads, arguments.rounds, arguments.policy)
        if index == 0:
            print(f"{'slots':>6}" + "".join(f"{name:>16}" for name in row))
        cells = (f"{value:16.0%}" if "/" in name else f"{value:16,.0f}" for name, value in row.items())
        print(f"{n_slots:6}" + "".join(cells))
    if warning := others.warning():
        print(warning)


if __name__ == "__main__":
    main()
