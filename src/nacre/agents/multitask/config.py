"""Hyperparameters of soft actor-critic on all train tasks at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from nacre.configuration import AlgorithmConfig, Bounds, Count, Fraction, Positive, Weight, Width, whole_episodes
from nacre.errors import NacreError
from nacre.protocol import Protocol
from nacre.rl.sac_config import SacConfig
from nacre.tasks.family import TaskFamily


@dataclass(frozen=True)
class MultitaskConfig(AlgorithmConfig):
    """Hyperparameters of soft actor-critic on many tasks. It infers nothing, so that it has no context."""

    sees_task: ClassVar[bool]
    """Whether policy and critics see the parameters of the task."""
    added_later: ClassVar[Mapping[str, Any]] = {"frame_stack": 3, "picture_filters": 32, "picture_features": 50}

    hidden_size: Width = 256
    """Width of the hidden layers of policy and critics."""
    hidden_layers: Count = 2
    """Number of hidden layers of policy and critics."""

    frame_stack: Width = 3
    """If observations are pictures: how many of the latest the networks see, so that what moves is seen to move."""
    picture_filters: Width = 32
    """If observations are pictures: filters of each convolution of the trunk that all networks share."""
    picture_features: Width = 50
    """If observations are pictures: features that the trunk makes of them."""

    initial_steps: Count = 400
    """Environment steps collected in every train task before the first update."""
    tasks_per_iteration: Count = 20
    """Train tasks visited in an iteration, drawn with replacement."""
    visit_steps: Count = 200
    """Environment steps per visit, by whole episodes."""

    updates_per_iteration: Count = 1000
    """Gradient steps per iteration."""
    meta_batch_size: Count = 16
    """Train tasks in a gradient step, drawn with replacement."""
    batch_size: Count = 16
    """Transitions per task in a gradient step."""

    discount: Fraction = 0.99
    """Discount factor."""
    reward_scale: Positive = 1.0
    """Factor on rewards in the critics' targets."""
    target_entropy: Annotated[float, Bounds(-1e4, 1e4)] | None = None
    """Entropy of the policy that the temperature is tuned for, in nats. None: minus the number of action dimensions."""
    initial_temperature: Positive = 1.0
    """Weight of the entropy before the first step."""
    target_update_rate: Fraction = 0.005
    """Step of the target critics towards the critics after every gradient step."""
    policy_learning_rate: Positive = 3e-4
    """Adam's learning rate for the policy."""
    critic_learning_rate: Positive = 3e-4
    """Adam's learning rate for the two critics."""
    temperature_learning_rate: Weight = 3e-4
    """Adam's learning rate for the logarithm of the temperature; 0 keeps the temperature as it is."""

    evaluation_trials: Count = 2
    """Trials per task in an evaluation; each is one episode."""
    sparse_returns: bool = False
    """The returns of evaluation sum the sparse reward. The losses use the dense one."""

    @property
    def sac(self) -> SacConfig:
        return SacConfig(
            hidden_sizes=(self.hidden_size,) * self.hidden_layers,
            discount=self.discount,
            target_entropy=self.target_entropy,
            initial_temperature=self.initial_temperature,
            target_update_rate=self.target_update_rate,
            policy_learning_rate=self.policy_learning_rate,
            critic_learning_rate=self.critic_learning_rate,
            temperature_learning_rate=self.temperature_learning_rate,
        )

    @classmethod
    def for_family(cls, family: TaskFamily) -> MultitaskConfig:
        """2 episodes per task to begin with and one in each visit, or more, so that a visit has 200 steps."""
        steps = whole_episodes(200, family.horizon)
        return cls(initial_steps=2 * steps, visit_steps=steps)

    def environment_steps(self, train_tasks: int, iterations: int) -> int:
        return train_tasks * self.initial_steps + iterations * self.tasks_per_iteration * self.visit_steps

    def gradient_steps(self, iterations: int) -> int:
        return iterations * self.updates_per_iteration

    def protocol(self, horizon: int) -> Protocol:
        return Protocol(
            name="single-episode",
            trials=self.evaluation_trials,
            steps=0,
            episodes=1,
            exploration_episodes=0,
            sparse_returns=self.sparse_returns,
        )

    def check(self, family: TaskFamily) -> None:
        if not isinstance(family.observation_size, int):
            from nacre.nn.convolution import check_pictures  # here, as it imports JAX

            check_pictures(family.name, family.observation_size)
        if self.sparse_returns and not family.has_sparse_reward:
            raise NacreError(
                f"algorithm.sparse_returns is True; allowed for {family.name}: False, as it has no sparse reward"
            )
