"""PEARL's hyperparameters. Values of the named experiments are in `nacre/experiments/pearl.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PearlConfig:
    """Hyperparameters of PEARL. The defaults are those of the published half-cheetah-velocity experiment."""

    latent_size: int = 5
    """Dimensions of the latent task variable z."""
    hidden_size: int = 300
    """Width of the three hidden layers of policy, critics and value."""
    encoder_hidden_size: int = 200
    """Width of the three hidden layers of the context encoder, and of its LSTM if it is recurrent."""

    encoder: Literal["mlp", "recurrent"] = "mlp"
    """mlp: every context transition gives a factor of the posterior, in whatever order.
    recurrent: an LSTM reads the context as whole episodes, in order, and its last output gives the posterior."""
    probabilistic_context: bool = True
    """Posterior over z (product of Gaussians). Off: z is the mean of the encoded transitions, with no KL term."""
    next_observation_in_context: bool = False
    """Encode (s, a, r, s') instead of (s, a, r): needed where the dynamics vary between tasks."""
    sparse_reward_in_context: bool = False
    """The context, and the returns of evaluation, use the sparse reward; the RL losses keep the dense one."""

    frame_stack: int = 3
    """Where observations are pictures: how many of the latest the networks see, so that what moves is seen to move."""
    picture_filters: int = 32
    """Where observations are pictures: filters of each convolution of the trunk that all networks share."""
    picture_features: int = 50
    """Where observations are pictures: features that the trunk makes of them."""

    initial_steps: int = 2000
    """Environment steps collected in every train task before the first update."""
    tasks_per_iteration: int = 5
    """Train tasks visited in an iteration, drawn with replacement."""
    prior_steps: int = 400
    """Steps per visit with z from the prior; they replace the task's context data."""
    posterior_steps: int = 0
    """Steps per visit with z from the posterior that also become context data."""
    extra_posterior_steps: int = 600
    """Steps per visit with z from the posterior that are used for RL only."""
    posterior_phase: Literal["refresh", "fixed-z"] = "refresh"
    """refresh: first episode of a posterior phase from the prior, then a new posterior after each (the later code).
    fixed-z: one z from the posterior of the prior-phase data, kept for the phase (the code of the paper's time)."""
    episodes_per_refresh: int = 1
    """Episodes between two refreshes of the posterior while collecting."""

    updates_per_iteration: int = 2000
    """Gradient steps per iteration."""
    meta_batch_size: int = 16
    """Train tasks in a gradient step, drawn with replacement."""
    batch_size: int = 256
    """Transitions per task in a gradient step."""
    rl_batch: Literal["transitions", "episodes"] = "transitions"
    """transitions: drawn one by one. episodes: as many whole, consecutive episodes as fit into `batch_size`."""
    context_size: int = 100
    """Context transitions per task in a gradient step, and per posterior while collecting. With a recurrent encoder:
    room for them, filled with whole episodes; while collecting, all of a visit's context is read."""
    context_source: Literal["recent", "replay", "rl-batch"] = "recent"
    """Where a gradient step takes its context from. recent: a task's context data. replay: all of a task's data.
    rl-batch: the RL batch itself. Each visit infers from its own data whatever this says."""

    discount: float = 0.99
    """Discount factor."""
    reward_scale: float = 5.0
    """Factor on rewards in the critics' targets; plays the part of the inverse temperature."""
    kl_weight: float = 0.1
    """Weight of the KL divergence, summed over the tasks of the meta-batch."""
    target_update_rate: float = 0.005
    """Step of the target value network towards the value network after every gradient step."""
    policy_learning_rate: float = 3e-4
    """Adam's learning rate for the policy."""
    critic_learning_rate: float = 3e-4
    """Adam's learning rate for the two Q networks, and for the trunk where observations are pictures."""
    value_learning_rate: float = 3e-4
    """Adam's learning rate for the value network."""
    encoder_learning_rate: float = 3e-4
    """Adam's learning rate for the context encoder."""
    policy_mean_penalty: float = 1e-3
    """Weight of the squared policy means in the policy loss."""
    policy_log_std_penalty: float = 1e-3
    """Weight of the squared policy log standard deviations in the policy loss."""

    test_context: Literal["deterministic", "stochastic"] = "deterministic"
    """deterministic: context of whole episodes of the deterministic policy, all of it encoded (the later code).
    stochastic: exploration with the stochastic policy, `context_size` random transitions of it encoded (the code
    of the paper's time)."""
    evaluation_trials: int = 1
    """Trials per task in an evaluation."""
    evaluation_steps: int = 600
    """A trial of an evaluation goes on, by whole episodes, until it has this many steps."""
    exploration_episodes: int = 2
    """Episodes of a trial with z from the prior before the posterior is used."""
