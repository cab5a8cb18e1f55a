"""An environment of a user's own that another process can import."""

from __future__ import annotations

import os
import time
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from nacre.tasks import GymnasiumFamily


class Walk(gymnasium.Env):
    """A walk by its action, a drift that is the task, and chance; it ends beyond 3. A drift from 100 on makes a step
    fail."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-2.0, 2.0, (1,), np.float64)
    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 12}
    drift = 0.0

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> Any:
        if self.drift == 100:
            raise ValueError("the wheel is off")
        if self.drift == 101:
            os.kill(os.getpid(), 9)
        if self.drift == 102:
            print(f"hangs in {os.getpid()}", flush=True)
            time.sleep(600)
        self.place += action[0] + self.drift + self.np_random.normal()
        return self._observe(), -abs(self.place), bool(self.place > 3), False, {"is_success": bool(self.place > 3)}

    def render(self) -> np.ndarray:
        return np.full((6, 4, 3), int(self.place * 10) % 256, np.uint8)

    def _observe(self) -> np.ndarray:
        return np.array([self.place, self.drift])


class CountingWalk(Walk):
    """Begins elsewhere after each reset, and offers their number."""

    resets = 0

    def reset(self, **options: Any) -> Any:
        super().reset(**options)
        self.resets += 1
        self.place += self.resets / 100
        return self._observe(), {}

    def state_dict(self) -> dict[str, int]:
        return {"resets": self.resets}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.resets = state["resets"]


def set_drift(env: gymnasium.Env, task: np.ndarray) -> None:
    env.unwrapped.drift = float(task[0])  # pyright: ignore[reportAttributeAccessIssue]


def make_walks(
    kind: type[Walk] = Walk, *, processes: bool = True, draws: bool = False, **arguments: Any
) -> GymnasiumFamily:
    return GymnasiumFamily(
        "walks",
        lambda: kind("rgb_array" if draws else None),
        set_drift,
        lambda generator, n: generator.uniform(-0.5, 0.5, (n, 1)),
        ("drift",),
        horizon=6,
        success_key="is_success",
        follows_changes=True,
        processes=processes,
        **arguments,
    )
