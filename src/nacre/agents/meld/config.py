"""MELD's hyperparameters. Values of the named experiments are in `nacre/experiments/meld.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from nacre.configuration import AlgorithmConfig, Bounds, Count, Fraction, Positive, Steps, Weight, Width
from nacre.errors import NacreError
from nacre.protocol import Protocol
from nacre.rl.sac_config import SacConfig
from nacre.tasks.family import TaskFamily

Share = Annotated[float, Bounds(0, 1)]
"""A probability."""


@dataclass(frozen=True)
class MeldConfig(AlgorithmConfig):
    """Hyperparameters of MELD. The defaults are those of the published half-cheetah-velocity experiment, without the
    defects of the public code, and with a latent model that is trained to the end."""

    added_later: ClassVar[Mapping[str, Any]] = {"policy_pool": 0}
    tensorboard_groups: ClassVar[Mapping[str, str]] = {
        r"Model .*|ELBO|KL .*|Image .*|Reward (Error|Log Likelihood)": "model"
    }

    base_depth: Width = 64
    """Filters of the first convolution. Hidden layers of the latent model have eight times as many units."""
    first_latent_size: Width = 64
    """Dimensions of z1, the latent variable that is inferred from a frame."""
    second_latent_size: Width = 32
    """Dimensions of z2, which follows from z1, z2 of the frame before and the action."""
    reward_repeats: Width = 32
    """How often the reward stands beside the features of a picture, so that it is not overlooked."""
    context_reward: Literal["dense", "sparse", "none"] = "dense"
    """Which reward the agent sees and infers from. sparse: the sparse one, while the latent model is trained to predict
    the dense one, and critics learn from it. none: it sees pictures alone (SLAC), and has no way to know its task."""
    image_deviation: Positive = 0.1**0.5
    """Standard deviation of a pixel, within 0 and 1, from what the latent model says."""
    reward_deviation: Positive = 0.2
    """Standard deviation of the reward from what the latent model says."""
    reward_weight: Weight = 16.0
    """Weight of the reward's likelihood in the ELBO, beside that of a whole picture."""

    episodes: Count = 1
    """Episodes of a trial, in which the agent keeps its belief."""
    episode_steps: Count = 50
    """Environment steps of an episode: the horizon of the task family."""
    initial_trials: Count = 20
    """Trials in every train task with random actions, before anything is learnt."""
    initial_model_steps: Steps = 6000
    """Gradient steps of the latent model before the first round."""
    rounds: Count = 100
    """Rounds of an iteration: each collects a trial, then trains the latent model, then policy and critics."""
    model_steps: Steps = 40
    """Gradient steps of the latent model in a round."""
    model_rounds: Steps | None = None
    """Rounds of the run in which the latent model is trained, the first ones; None: all."""
    policy_steps: Count = 40
    """Gradient steps of policy and critics in a round."""

    model_trials: Width = 5
    """Trials in a gradient step of the latent model."""
    policy_trials: Width = 10
    """Trials that are filtered in a gradient step of policy and critics, or at once for the pool."""
    policy_pool: Steps = 0
    """Above 0: at least so many trials are filtered before a round's steps of policy and critics, which draw from all
    of their transitions. 0: each step filters `policy_trials` of its own (published)."""
    policy_batch_size: Count = 256
    """Transitions of these trials in a gradient step of policy and critics, drawn with replacement."""
    trials: Literal["consecutive", "reassembled"] = "consecutive"
    """consecutive: the episodes of a trial in a batch followed one another when they were played. reassembled: they are
    any episodes of one task (published)."""

    relabelled_share: Share = 0.0
    """How often a trial in a batch is one that was played in any train task, with the rewards of its own. With
    reassembled trials: how often an episode is."""
    offline_run: str | None = None
    """The folder of an earlier run with the same train tasks, whose episodes batches take some of. They are cut to
    `episode_steps`, and their rewards are computed anew. They are copied into this run, which then needs the other no
    more. None: there is none."""
    offline_share: Share = 0.3
    """How often a trial in a batch is made of episodes of `offline_run`; with reassembled trials: an episode."""
    offline_episodes: Count = 200
    """The latest episodes of each train task that are taken from `offline_run`."""

    model_learning_rate: Fraction = 1e-4
    """Adam's learning rate for the latent model."""
    hidden_size: Width = 256
    """Width of the hidden layers of policy and critics."""
    hidden_layers: Count = 2
    """Number of hidden layers of policy and critics."""
    discount: Fraction = 0.99
    """Discount factor."""
    reward_scale: Positive = 1.0
    """Factor on rewards in the critics' targets."""
    reward_index: Literal["following", "published"] = "following"
    """The reward in a critic's target. following: that of the action. published: that of the action before, which
    stands beside the same picture."""
    target_critics: Literal["copies", "published"] = "copies"
    """What target critics begin as. copies: of the critics. published: networks of their own."""
    target_entropy: Annotated[float, Bounds(-1e4, 1e4)] | None = None
    """Entropy of the policy that the temperature is tuned for, in nats. None: minus the number of action dimensions."""
    initial_temperature: Positive = 1.0
    """Weight of the entropy before the first step."""
    target_update_rate: Fraction = 0.005
    """Step of the target critics towards the critics after every gradient step."""
    policy_learning_rate: Fraction = 3e-4
    """Adam's learning rate for the policy."""
    critic_learning_rate: Fraction = 3e-4
    """Adam's learning rate for the two critics."""
    temperature_learning_rate: Weight = 3e-4
    """Adam's learning rate for the logarithm of the temperature; 0 keeps the temperature as it is."""

    evaluation_trials: Count = 1
    """Trials per task in an evaluation."""
    evaluation_policy: Literal["deterministic", "stochastic"] = "deterministic"
    """With which policy trials of an evaluation are played. stochastic: as they are collected (published)."""

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

    @property
    def latent_size(self) -> int:
        """Of [z1, z2]."""
        return self.first_latent_size + self.second_latent_size

    @property
    def frames(self) -> int:
        """Frames of a trial: an episode has one more than it has steps."""
        return self.episodes * (self.episode_steps + 1)

    @property
    def other_names(self) -> Mapping[str, str]:
        """Columns that the public code has under other names."""
        return {
            "model_loss": "Model Loss",
            "critic_loss": "QF Loss",
            "actor_loss": "Policy Loss",
            "alpha_loss": "Temperature Loss",
            "elbo": "ELBO",
            "latent1_kl_divergence": "KL of z1",
            "kl_divergence": "KL of z1",
            "log_likelihood": "Image Log Likelihood",
            "reconstruction_error": "Image Error",
            "reconst_reward_log_likelihood": "Reward Log Likelihood",
            "reconst_reward_error": "Reward Error",
            "EnvironmentSteps": "Number of env steps total",
            "NumberOfEpisodes": "Number of rollouts total",
            "a_AverageReturnTrain": "AverageReturn_collected",
            "b_AverageScoreTrain": "AverageScore_collected",
            "e_AverageEpisodeLengthTrain": "AverageLength_collected",
            **{
                f"{name}Eval_{episode}": f"{column}_test_episode_{episode + 1}"
                for episode in range(self.episodes)
                for name, column in (
                    ("c_AverageReturn", "AverageReturn"),
                    ("d_AverageScoreMetric", "AverageScore"),
                    ("f_AverageEpisodeLength", "AverageLength"),
                )
            },
        }

    @classmethod
    def for_family(cls, family: TaskFamily) -> MeldConfig:
        """Two episodes in a trial, and five trials per task to begin with."""
        return cls(episodes=2, episode_steps=family.horizon, initial_trials=5)

    def rounds_with_model(self, iteration: int) -> int:
        """How many of the rounds of an iteration train the latent model; they come first."""
        if self.model_rounds is None:
            return self.rounds
        return min(max(self.model_rounds - iteration * self.rounds, 0), self.rounds)

    def environment_steps(self, train_tasks: int, iterations: int) -> int:
        trials = train_tasks * self.initial_trials + iterations * self.rounds
        return trials * self.episodes * self.episode_steps

    def gradient_steps(self, iterations: int) -> int:
        rounds = iterations * self.rounds
        with_model = rounds if self.model_rounds is None else min(rounds, self.model_rounds)
        return self.initial_model_steps + with_model * self.model_steps + rounds * self.policy_steps

    def protocol(self, horizon: int) -> Protocol:
        return Protocol(
            name="filtered-trial",
            trials=self.evaluation_trials,
            steps=0,
            episodes=self.episodes,
            exploration_episodes=0,
            deterministic=self.evaluation_policy == "deterministic",
        )

    def check(self, family: TaskFamily) -> None:
        _check_pictures(family)
        if self.episode_steps != family.horizon:
            raise NacreError(
                f"algorithm.episode_steps is {self.episode_steps}; allowed for {family.name}: {family.horizon}, its "
                "horizon"
            )
        if self.context_reward == "sparse" and not family.has_sparse_reward:
            raise NacreError(
                f"algorithm.context_reward is 'sparse'; allowed for {family.name}: 'dense' or 'none', as it has no "
                "sparse reward"
            )
        self._check_rewards_anew(family)

    def _check_rewards_anew(self, family: TaskFamily) -> None:
        """Rewards of other tasks can be computed, and in a task those of what another run played in it."""
        if self.relabelled_share and not family.can_relabel:
            raise NacreError(
                f"algorithm.relabelled_share is {self.relabelled_share!r}; allowed for {family.name}: 0.0, as rewards "
                "of other tasks cannot be computed for what was played"
            )
        for field, off in (("relabelled_share", 0.0), ("offline_run", None)):
            value = getattr(self, field)
            if value != off and family.shift is not None:
                raise NacreError(
                    f"algorithm.{field} is {value!r}; allowed with the shift '{family.shift}': {off}, as an episode "
                    "would need rewards of several tasks"
                )


def _check_pictures(family: TaskFamily) -> None:
    size = family.observation_size
    if isinstance(size, int):
        raise NacreError(
            f"family is {family.name!r}; allowed for this algorithm: families whose observations are pictures, such as "
            "point-robot-pixels"
        )
    from nacre.nn.image import SMALLEST_UNIT, cameras_of  # here, as it imports JAX

    cameras, named = cameras_of(size), getattr(family, "cameras", None)
    if cameras is None or (named is not None and len(named) != cameras):
        raise NacreError(
            f"The pictures of {family.name} are {size[0]} pixels high and {size[1]} wide; allowed: a width that is a "
            f"multiple of {SMALLEST_UNIT}, and a height that is the same, or twice that for two cameras"
        )
