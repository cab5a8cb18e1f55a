"""Hyperparameters of soft actor-critic. They stand apart from its functions, as reading them must not import JAX."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SacConfig:
    """What :mod:`nacre.rl.sac` reads. The configuration of an algorithm that uses it can inherit these fields."""

    hidden_sizes: tuple[int, ...] = (300, 300, 300)
    """Widths of the hidden layers of policy and critics."""
    discount: float = 0.99
    """Discount factor."""
    target_entropy: float | None = None
    """Entropy of the policy that the temperature is tuned for, in nats. None: minus the number of action dimensions."""
    initial_temperature: float = 1.0
    """Weight of the entropy before the first step. With a temperature_learning_rate of 0 it stays."""
    target_update_rate: float = 0.005
    """Step of the target critics towards the critics after every gradient step."""
    policy_learning_rate: float = 3e-4
    """Adam's learning rate for the policy."""
    critic_learning_rate: float = 3e-4
    """Adam's learning rate for the two critics."""
    temperature_learning_rate: float = 3e-4
    """Adam's learning rate for the logarithm of the temperature."""
