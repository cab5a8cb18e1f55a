"""CEMRL's hyperparameters. Values of the named experiments are in `nacre/experiments/cemrl.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from nacre.configuration import AlgorithmConfig, Bounds, Count, Fraction, Positive, Steps, Weight, Width, whole_episodes
from nacre.errors import NacreError
from nacre.protocol import Protocol
from nacre.rl.sac_config import SacConfig
from nacre.tasks.family import TaskFamily

Usage = Literal["uniform", "last", "rising"]
"""Which of the transitions of all tasks a batch comes from. uniform: any. last: the latest `last_transitions`.
rising: the newest are nine times as likely as the oldest, and the likelihood is linear in age."""


@dataclass(frozen=True)
class CemrlConfig(AlgorithmConfig):
    """Hyperparameters of CEMRL. The defaults are those of the published half-cheetah-velocity experiment, without the
    defects of the public code."""

    tensorboard_groups: ClassVar[Mapping[str, str]] = {
        r"Encoder .*|State .*|Reward .*|KL .*|Validation .*|Class .*": "encoder"
    }

    latent_size: Width = 1
    """Dimensions of the latent task variable z."""
    classes: Width = 1
    """Components of the mixture that z is drawn from: kinds of tasks."""
    window: Width = 10
    """Latest transitions that z is inferred from."""
    window_within: Literal["episode", "trial"] = "episode"
    """episode: the window forgets at a reset (published). trial: it goes on across the episodes of a trial."""
    padding: Literal["masked", "published"] = "masked"
    """Windows that begin before the episode does. masked: what is missing takes no part; a window without transitions
    gives the prior. published: rows of zeros, which are normalised in training and not while acting."""
    permute_windows: bool = False
    """Shuffles the transitions of a window: one order for a batch in training, a fresh one at each step of acting."""

    encoder: Literal["trajectory", "shared-y", "individual-y"] = "shared-y"
    """trajectory: the window as one vector. shared-y: a Gaussian per transition and class, multiplied over the window,
    and one class for the window. individual-y: the same with a class for each transition."""
    merge: Literal["add", "add-softmax", "multiply", "linear", "mlp"] = "add"
    """How shared-y makes one class of those of the transitions. add: mean of probabilities. add-softmax, multiply:
    their product (see `class_scores`). linear, mlp: a layer, or an MLP, on the features of all transitions."""
    class_scores: Literal["normalised", "published"] = "normalised"
    """What add-softmax and multiply do. normalised: both multiply probabilities and normalise. published: a second
    softmax, of the sum or of the product of probabilities."""
    gaussian_product: Literal["variance", "published"] = "variance"
    """How Gaussians of transitions are multiplied. variance: precisions add up. published: what adds up is then taken
    for a standard deviation."""
    width_factor: Positive = 10.0
    """Hidden layers of encoder and decoder have so many units for each number of their input."""

    state_coordinates: Width | None = None
    """How many coordinates of the next observation the decoder predicts, from the first on. None: all."""
    state_difference: bool = False
    """The decoder predicts how they change."""
    prior: Literal["fixed", "learned"] = "fixed"
    """fixed: class k has the prior N(k, prior_deviation²) in each dimension of z. learned: trained with the encoder."""
    prior_deviation: Positive = 0.5
    """Standard deviation of the fixed priors."""
    latent_kl_weight: Weight = 1e-3
    """Weight of the KL divergence of z from the prior of its class."""
    class_kl_weight: Weight = 1e-3
    """Weight of the KL divergence of the class from the uniform distribution, or of its error if `true_classes`."""
    true_classes: bool = False
    """Component-constraint learning: in training the class is the true kind of the task."""

    normalise: bool = True
    """Encoder and decoder see transitions of mean 0 and standard deviation 1, by the data of the iteration."""
    encoder_steps: Count = 5000
    """Gradient steps of encoder and decoder per iteration, if they do not stop early."""
    encoder_batch_size: Count = 256
    """Windows in a gradient step of encoder and decoder."""
    encoder_learning_rate: Fraction = 3e-4
    """Adam's learning rate for the encoder and its prior."""
    decoder_learning_rate: Fraction = 3e-4
    """Adam's learning rate for the decoder."""
    encoder_data: Usage = "uniform"
    """Which transitions encoder and decoder are trained on: see `policy_data`."""
    validation_block: Count = 5
    """One transition in a block of so many is for validation, always the same one, drawn at random."""
    evaluate_every: Count = 50
    """Gradient steps of the encoder between two looks at the validation loss, which also set the weights of losses."""
    patience: Count = 500
    """The encoder's phase ends if so many steps brought no better validation loss; then the best weights are taken."""

    hidden_size: Width = 300
    """Width of the hidden layers of policy and critics."""
    hidden_layers: Count = 3
    """Number of hidden layers of policy and critics."""
    policy_steps: Count = 2000
    """Gradient steps of policy and critics per iteration."""
    policy_batch_size: Count = 256
    """Transitions in a gradient step of policy and critics."""
    policy_data: Usage = "uniform"
    """Which transitions policy and critics are trained on. uniform: any. last: the latest `last_transitions`. rising:
    more of the newer ones, up to nine times as many as of the oldest."""
    last_transitions: Annotated[int, Bounds(1, 1_000_000_000)] = 1_000_000
    """How many transitions `last` is, over all tasks."""
    next_latent: Literal["following", "published"] = "following"
    """The z of a next state. following: what the agent infers there. published: that of the state before."""
    discount: Fraction = 0.99
    """Discount factor."""
    reward_scale: Positive = 1.0
    """Factor on rewards in the critics' targets."""
    target_entropy_factor: Positive = 1.0
    """The temperature is tuned for an entropy of minus this times the number of action dimensions, in nats."""
    initial_temperature: Positive = 1.0
    """Weight of the entropy before the first step; if it is a function of z, nearly so."""
    latent_temperature: bool = False
    """The temperature is a function of z, an MLP."""
    target_critics: Literal["copies", "published"] = "copies"
    """What target critics begin as. copies: of the critics. published: networks of their own."""
    target_update_rate: Fraction = 0.005
    """Step of the target critics towards the critics after every gradient step."""
    policy_learning_rate: Fraction = 3e-4
    """Adam's learning rate for the policy."""
    critic_learning_rate: Fraction = 3e-4
    """Adam's learning rate for the two critics."""
    temperature_learning_rate: Weight = 3e-4
    """Adam's learning rate for the temperature; 0 keeps it as it is."""

    initial_steps: Steps = 200
    """Environment steps collected in every train task before the first iteration."""
    tasks_per_iteration: Count = 20
    """Train tasks visited in an iteration, each at most once."""
    visit_steps: Count = 200
    """Environment steps per visit, by whole episodes."""

    evaluation_trials: Count = 2
    """Trials per task in an evaluation."""
    evaluation_episodes: Count = 1
    """Episodes of a trial."""
    evaluation_policy: Literal["deterministic", "stochastic"] = "deterministic"
    """With which policy trials of an evaluation are played."""

    @property
    def sac(self) -> SacConfig:
        """Without the target entropy, which depends on the family."""
        return SacConfig(
            hidden_sizes=(self.hidden_size,) * self.hidden_layers,
            discount=self.discount,
            initial_temperature=self.initial_temperature,
            target_update_rate=self.target_update_rate,
            policy_learning_rate=self.policy_learning_rate,
            critic_learning_rate=self.critic_learning_rate,
            temperature_learning_rate=self.temperature_learning_rate,
        )

    @property
    def other_names(self) -> Mapping[str, str]:
        """Columns that the public code has under other names."""
        return {
            "Reconstruction_epochs": "Encoder Steps",
            "n_env_steps_total": "Number of env steps total",
            "Alpha": "Temperature",
            "Alpha Loss": "Temperature Loss",
            "train_eval_success_rate": "AverageSuccess_all_train_tasks",
            "test_eval_success_rate": "AverageSuccess_all_test_tasks",
            "time_data_collection": "Sample Time (s)",
            "time_reconstruction_trainer": "Encoder Time (s)",
            "time_policy_trainer": "Policy Time (s)",
            "time_evaluation": "(Previous) Eval Time (s)",
            "time_epoch": "Epoch Time (s)",
            "time_total": "Total Train Time (s)",
            "epoch": "Epoch",
        }

    @property
    def has_target_policy(self) -> bool:
        """Whether the critics' targets have next actions of a policy that follows the policy."""
        return False

    @property
    def stores_evenly(self) -> bool:
        """Whether all train tasks are equally likely to get what is stored."""
        return True

    def stored_visits(self, train_tasks: int) -> int:
        """Visits of an iteration that the replay has to have room for."""
        return min(self.tasks_per_iteration, train_tasks)

    @classmethod
    def for_family(cls, family: TaskFamily) -> CemrlConfig:
        """One episode per task to begin with, and one in each visit, or more, so that they have 200 steps; a class for
        each kind of task; a z of as many dimensions as a task has parameters."""
        steps = whole_episodes(200, family.horizon)
        kinds = family.kinds or 1
        return cls(
            latent_size=max(1, len(family.task_parameters)),
            classes=kinds if kinds <= 10 else 1,
            initial_steps=steps,
            visit_steps=steps,
        )

    def environment_steps(self, train_tasks: int, iterations: int) -> int:
        visits = min(self.tasks_per_iteration, train_tasks)
        return train_tasks * self.initial_steps + iterations * visits * self.visit_steps

    def gradient_steps(self, iterations: int) -> int:
        return iterations * (self.encoder_steps + self.policy_steps)

    def protocol(self, horizon: int) -> Protocol:
        return Protocol(
            name="within-episode" if self.window_within == "episode" else "within-trial",
            trials=self.evaluation_trials,
            steps=0,
            episodes=self.evaluation_episodes,
            exploration_episodes=0,
            deterministic=self.evaluation_policy == "deterministic",
        )

    def check(self, family: TaskFamily) -> None:
        size = family.observation_size
        if not isinstance(size, int):
            raise NacreError(
                f"family is {family.name!r}; allowed for this algorithm: families whose observations are vectors, as "
                "its networks do not see pictures"
            )
        if self.state_coordinates is not None and self.state_coordinates > size:
            raise NacreError(
                f"algorithm.state_coordinates is {self.state_coordinates}; allowed for {family.name}: at most {size}, "
                "the width of its observations"
            )
        if self.validation_block < 2:
            raise NacreError(
                f"algorithm.validation_block is {self.validation_block}; allowed: at least 2, as one transition of "
                "each block is for validation and the others are trained on"
            )
        self._check_classes(family)

    def _check_classes(self, family: TaskFamily) -> None:
        if not self.true_classes:
            return
        if family.shift is not None:
            raise NacreError(
                f"algorithm.true_classes is True; allowed with the shift '{family.shift}': False, as the class of a "
                "task that changes within an episode is not that of its beginning"
            )
        if family.kinds is None:
            raise NacreError(
                f"algorithm.true_classes is True; allowed for {family.name}: False, as it has no kinds of tasks"
            )
        if family.kinds > self.classes:
            raise NacreError(
                f"algorithm.classes is {self.classes}; allowed with true_classes for {family.name}: at least "
                f"{family.kinds}, the kinds of its tasks"
            )
