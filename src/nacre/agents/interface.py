"""What every algorithm offers: an agent, as pure functions over a batch of N trials.

`collect` and `evaluate` know nothing else about an algorithm. An agent is a frozen, hashable dataclass of settings; its
parameters and beliefs are pytrees it alone looks into. A belief has a leading axis of N on every leaf.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Real

from nacre.types import Key, Transition, Tree


@runtime_checkable
class Agent(Protocol):
    """Task inference (`begin_*`, `observe`, `end_episode`) and control (`act`) of N simultaneous trials.

    `mask` says which trials a call concerns; the beliefs of the others come back unchanged.
    """

    def begin_trial(self, params: Tree, key: Key, n: int) -> Tree:
        """The belief of n agents that have seen nothing of their tasks."""
        ...

    def begin_episode(self, params: Tree, belief: Tree, key: Key, mask: Bool[Array, " n"]) -> Tree:
        """At each reset. PEARL draws z from its posterior here."""
        ...

    def act(
        self, params: Tree, belief: Tree, observation: Real[Array, "n *observation"], key: Key, deterministic: bool
    ) -> tuple[Float[Array, "n action"], Tree]:
        """Actions in [-1, 1]."""
        ...

    def observe(self, params: Tree, belief: Tree, transition: Transition, mask: Bool[Array, " n"]) -> Tree:
        """After each time step."""
        ...

    def end_episode(self, params: Tree, belief: Tree, key: Key, mask: Bool[Array, " n"]) -> Tree:
        """When an episode has terminated or been truncated. PEARL recomputes its posterior here."""
        ...
