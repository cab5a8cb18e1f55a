"""PEARL's hyperparameters. Values of the named experiments are in `nacre/experiments/pearl.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from nacre.configuration import AlgorithmConfig, Count, Fraction, Positive, Steps, Weight, Width, whole_episodes
from nacre.errors import NacreError
from nacre.protocol import Protocol
from nacre.tasks.family import TaskFamily


@dataclass(frozen=True)
class PearlConfig(AlgorithmConfig):
    """Hyperparameters of PEARL. The defaults are those of the published half-cheetah-velocity experiment."""

    added_later: ClassVar[Mapping[str, Any]] = {
        "encoder": "mlp",
        "rl_batch": "transitions",
        "context_source": "recent",
        "context_sizes": "fixed",
        "infer_every": 0,
        "latent_noise": "new",
        "prior_factor": False,
        "reward_change_in_context": 0.0,
        "frame_stack": 3,
        "picture_filters": 32,
        "picture_features": 50,
    }
    tensorboard_groups: ClassVar[Mapping[str, str]] = {r"Z .*|KL .*": "belief"}

    latent_size: Width = 5
    """Dimensions of the latent task variable z."""
    hidden_size: Width = 300
    """Width of the three hidden layers of policy, critics and value."""
    encoder_hidden_size: Width = 200
    """Width of the three hidden layers of the context encoder, and of its LSTM if it is recurrent."""

    encoder: Literal["mlp", "recurrent"] = "mlp"
    """mlp: every context transition gives a factor of the posterior, in whatever order.
    recurrent: an LSTM reads the context as whole episodes, in order, and its last output gives the posterior."""
    probabilistic_context: bool = True
    """Posterior over z (product of Gaussians). Off: z is the mean of the encoded transitions, with no KL term."""
    prior_factor: bool = False
    """Whether the prior N(0, 1) is a factor of every posterior, so that one stays near it if its transitions are few or
    say nothing. Off: only transitions give factors (published)."""
    next_observation_in_context: bool = False
    """Encode (s, a, r, s') instead of (s, a, r): needed if the dynamics vary between tasks."""
    sparse_reward_in_context: bool = False
    """The context, and the returns of evaluation, use the sparse reward; the RL losses keep the dense one."""

    reward_change_in_context: Weight = 0.0
    """Above 0: encode, too, by how much the reward has changed since the step before, times this factor, and whether
    there is such a step in the episode. 0: every transition by itself (published)."""

    frame_stack: Width = 3
    """If observations are pictures: how many of the latest the networks see, so that what moves is seen to move."""
    picture_filters: Width = 32
    """If observations are pictures: filters of each convolution of the trunk that all networks share."""
    picture_features: Width = 50
    """If observations are pictures: features that the trunk makes of them."""

    infer_every: Steps = 0
    """Steps of an episode after which the posterior is refreshed and z drawn anew, while collecting and in tests.
    Where the posterior is not used, z is drawn from the prior as often. 0: only between episodes (published)."""
    latent_noise: Literal["new", "kept"] = "new"
    """With `infer_every`. new: each z within an episode is a new draw from its posterior. kept: it has the noise of the
    episode's first z, and so changes only as the posterior does. As long as nothing is known, one hypothesis is then
    explored to the end of the episode, as rewards that are rarely met need it."""

    initial_steps: Count = 2000
    """Environment steps collected in every train task before the first update."""
    tasks_per_iteration: Count = 5
    """Train tasks visited in an iteration, drawn with replacement."""
    prior_steps: Steps = 400
    """Steps per visit with z from the prior; they replace the task's context data."""
    posterior_steps: Steps = 0
    """Steps per visit with z from the posterior that also become context data."""
    extra_posterior_steps: Steps = 600
    """Steps per visit with z from the posterior that are used for RL only."""
    posterior_phase: Literal["refresh", "fixed-z"] = "refresh"
    """refresh: first episode of a posterior phase from the prior, then a new posterior after each (the later code).
    fixed-z: one z from the posterior of the prior-phase data, kept for the phase (the code of the paper's time)."""
    episodes_per_refresh: Count = 1
    """Episodes between two refreshes of the posterior while collecting."""

    updates_per_iteration: Count = 2000
    """Gradient steps per iteration."""
    meta_batch_size: Width = 16
    """Train tasks in a gradient step, drawn with replacement."""
    batch_size: Count = 256
    """Transitions per task in a gradient step."""
    rl_batch: Literal["transitions", "episodes"] = "transitions"
    """transitions: drawn one by one. episodes: as many whole, consecutive episodes as fit into `batch_size`."""
    context_size: Count = 100
    """Context transitions per task in a gradient step, and per posterior while collecting. With a recurrent encoder:
    room for them, filled with whole episodes; while collecting, all of a visit's context is read."""
    context_sizes: Literal["fixed", "any"] = "fixed"
    """fixed: a gradient step infers from `context_size` transitions of each task (published). any: from so many or
    fewer, at least one, a number that is drawn for each task, as an agent meets them within an episode. Of contexts in
    order (`context_source` trials) it is the first ones."""
    context_source: Literal["recent", "replay", "trials", "rl-batch"] = "recent"
    """Where a gradient step takes its context from. recent: a task's context data. replay: all of a task's data.
    trials: any trial of the task, old or new, from its first transition on; while collecting, all of a visit's context
    is read. rl-batch: the RL batch itself. Each visit infers from its own data whatever this says."""

    discount: Fraction = 0.99
    """Discount factor."""
    reward_scale: Positive = 5.0
    """Factor on rewards in the critics' targets; plays the part of the inverse temperature."""
    kl_weight: Weight = 0.1
    """Weight of the KL divergence, summed over the tasks of the meta-batch."""
    target_update_rate: Fraction = 0.005
    """Step of the target value network towards the value network after every gradient step."""
    policy_learning_rate: Fraction = 3e-4
    """Adam's learning rate for the policy."""
    critic_learning_rate: Fraction = 3e-4
    """Adam's learning rate for the two Q networks, and for the trunk if observations are pictures."""
    value_learning_rate: Fraction = 3e-4
    """Adam's learning rate for the value network."""
    encoder_learning_rate: Fraction = 3e-4
    """Adam's learning rate for the context encoder."""
    policy_mean_penalty: Weight = 1e-3
    """Weight of the squared policy means in the policy loss."""
    policy_log_std_penalty: Weight = 1e-3
    """Weight of the squared policy log standard deviations in the policy loss."""

    test_context: Literal["deterministic", "stochastic"] = "deterministic"
    """deterministic: context of whole episodes of the deterministic policy, all of it encoded (the later code).
    stochastic: exploration with the stochastic policy, `context_size` random transitions of it encoded (the code
    of the paper's time)."""
    evaluation_trials: Count = 1
    """Trials per task in an evaluation."""
    evaluation_steps: Count = 600
    """A trial of an evaluation goes on, by whole episodes, until it has this many steps."""
    exploration_episodes: Count = 2
    """Episodes of a trial with z from the prior before the posterior is used."""

    @classmethod
    def for_family(cls, family: TaskFamily) -> PearlConfig:
        """10 episodes per task to begin with, visits of 2 and 3 episodes or more, and trials of 3, as for the published
        half-cheetah; the context has next observations, as the dynamics may vary."""
        horizon = family.horizon
        prior = max(2 * horizon, whole_episodes(200, horizon))
        posterior = max(3 * horizon, whole_episodes(200, horizon))
        collected = cls.tasks_per_iteration * (prior + posterior)
        return cls(
            next_observation_in_context=True,
            initial_steps=10 * horizon,
            prior_steps=prior,
            extra_posterior_steps=posterior,
            updates_per_iteration=min(4000, 2 * collected // 5),
            context_size=min(max(64, horizon // 2), 256),
            evaluation_steps=3 * horizon,
        )

    def environment_steps(self, train_tasks: int, iterations: int) -> int:
        visit = self.prior_steps + self.posterior_steps + self.extra_posterior_steps
        return train_tasks * self.initial_steps + iterations * self.tasks_per_iteration * visit

    def gradient_steps(self, iterations: int) -> int:
        return iterations * self.updates_per_iteration

    def protocol(self, horizon: int) -> Protocol:
        stochastic = self.test_context == "stochastic"
        return Protocol(
            name=f"{self.test_context}-context",
            trials=self.evaluation_trials,
            steps=0 if stochastic else self.evaluation_steps,
            episodes=1,
            exploration_episodes=0 if self.infer_every else self.exploration_episodes,
            stochastic_steps=self.exploration_episodes * horizon if stochastic else 0,
            sparse_returns=self.sparse_reward_in_context,
        )

    def check(self, family: TaskFamily) -> None:
        if not isinstance(family.observation_size, int):
            from nacre.nn.convolution import check_pictures  # here, as it imports JAX

            check_pictures(family.name, family.observation_size)
        _check_collection(self)
        _check_context(self)
        _check_whole_episodes(self, family)
        _check_evaluation(self, family)
        if self.sparse_reward_in_context and not family.has_sparse_reward:
            raise NacreError(
                f"algorithm.sparse_reward_in_context is True; allowed for {family.name}: False, as it has no sparse "
                "reward"
            )


def _check_collection(config: PearlConfig) -> None:
    """A visit collects context, and no option is without effect."""
    if config.latent_noise == "kept" and not config.infer_every:
        raise NacreError(
            "algorithm.latent_noise is 'kept'; allowed with infer_every=0: 'new', as an episode has one z anyway"
        )
    if config.prior_steps + config.posterior_steps == 0:
        raise NacreError(
            "algorithm.prior_steps and algorithm.posterior_steps are both 0; allowed: at least one above 0, as a visit "
            "empties a task's context data and these steps refill it"
        )
    if config.posterior_phase == "fixed-z" and config.prior_steps == 0:
        raise NacreError(
            "algorithm.prior_steps is 0; allowed with posterior_phase='fixed-z': at least 1, as z is inferred from them"
        )


def _check_context(config: PearlConfig) -> None:
    """Context is not larger than what is collected.

    Context transitions are drawn with replacement, so any `context_size` would run, and the published
    sparse-point-robot draws 1024 of 1000 (200 before the first visit). What no published configuration does, and
    what only repeats transitions and so claims certainty that the data do not give, is to draw more than was
    collected in a task by the end of its first visit.
    """
    if config.prior_factor and not config.probabilistic_context:
        raise NacreError(
            "algorithm.prior_factor is True; allowed with probabilistic_context=False: False, as there is no posterior"
        )
    if config.context_source == "rl-batch":
        if config.reward_change_in_context:
            raise NacreError(
                f"algorithm.reward_change_in_context is {config.reward_change_in_context}; allowed with "
                "context_source='rl-batch': 0, as the steps before those of an RL batch are not drawn"
            )
        if config.encoder == "recurrent":
            raise NacreError(
                "algorithm.context_source is 'rl-batch'; allowed with encoder='recurrent': 'recent', 'replay' or "
                "'trials', as it reads the context in order"
            )
        if config.context_size != config.batch_size:
            raise NacreError(
                f"algorithm.context_size is {config.context_size}; allowed with context_source='rl-batch': "
                f"{config.batch_size}, the batch_size, as they are the same transitions"
            )
    if config.context_sizes == "any" and _infers_from_whole_episodes(config):
        raise NacreError(
            "algorithm.context_sizes is 'any'; allowed with encoder='recurrent': 'fixed', as it reads whole episodes, "
            "unless context_source is 'trials'"
        )
    collected = config.initial_steps + config.prior_steps + config.posterior_steps
    if config.context_size > collected:
        raise NacreError(
            f"algorithm.context_size is {config.context_size}; allowed: at most {collected}, the context transitions "
            "collected in a task by the end of its first visit (initial_steps + prior_steps + posterior_steps)"
        )


def _infers_from_whole_episodes(config: PearlConfig) -> bool:
    return config.encoder == "recurrent" and config.context_source != "trials"


def _check_whole_episodes(config: PearlConfig, family: TaskFamily) -> None:
    """What is drawn as whole episodes has room for the longest."""
    drawn_whole = {
        "context_size": ("encoder='recurrent'", _infers_from_whole_episodes(config)),
        "batch_size": ("rl_batch='episodes'", config.rl_batch == "episodes"),
    }
    for field, (reason, whole) in drawn_whole.items():
        size = getattr(config, field)
        if whole and size < family.horizon:
            raise NacreError(
                f"algorithm.{field} is {size}; allowed with {reason}: at least {family.horizon}, the horizon of "
                f"{family.name}, as it is filled with whole episodes"
            )


def _check_evaluation(config: PearlConfig, family: TaskFamily) -> None:
    episodes = -(-config.evaluation_steps // family.horizon)
    if config.exploration_episodes < episodes:
        return
    reason = (
        f"evaluation_steps={config.evaluation_steps} are {episodes} episode(s) of {family.horizon} steps and the last "
        "has to follow from the posterior"
    )
    if episodes == 1:
        raise NacreError(
            f"algorithm.evaluation_steps is {config.evaluation_steps}; allowed for {family.name} with "
            f"exploration_episodes={config.exploration_episodes}: more than "
            f"{config.exploration_episodes * family.horizon}, as {reason}"
        )
    raise NacreError(
        f"algorithm.exploration_episodes is {config.exploration_episodes}; allowed: at most {episodes - 1}, as {reason}"
    )
