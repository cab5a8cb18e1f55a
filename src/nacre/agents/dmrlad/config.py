"""DMRLAD's hyperparameters: those of CEMRL, of its critics and of relabelling. Values of the named experiments are in
`nacre/experiments/dmrlad.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from nacre.agents.cemrl.config import CemrlConfig
from nacre.configuration import Bounds, Fraction, Width
from nacre.errors import NacreError
from nacre.tasks.family import TaskFamily

RISKS = {
    "neutral": ("0, as a mean has no parameter", lambda value: value == 0),
    "std": ("any number", lambda value: True),
    "VaR": ("more than 0 and less than 1", lambda value: 0 < value < 1),
    "wang": ("-3 to 3", lambda value: abs(value) <= 3),
    "cvar": ("-1 to 1, but not 0", lambda value: 0 < abs(value) <= 1),
    "cpw": ("0.28 to 1, or -1 to -0.28", lambda value: 0.28 <= abs(value) <= 1),
}
"""What `risk_parameter` may be, in words and as a test. Probability weighting is not monotonic below 0.28."""


@dataclass(frozen=True)
class DmrladConfig(CemrlConfig):
    """Hyperparameters of DMRLAD. The defaults are those of the published sparse half-cheetah-velocity experiment,
    without the defects of the public code."""

    initial_steps: Annotated[int, Bounds(0, 10_000_000)] = 100
    """Environment steps collected in every train task before the first iteration."""

    critics: Literal["quantile", "expected"] = "quantile"
    """What critics predict. quantile: quantiles of the return. expected: its mean, as in CEMRL."""
    quantiles: Width = 16
    """Quantiles that a quantile critic is asked for at once."""
    embedding_size: Width = 64
    """Cosines that a fraction is shown to a quantile critic as."""
    fractions: Literal["random", "equal"] = "random"
    """How (0, 1) is cut into intervals, at whose midpoints critics are asked. random: anew for each row of each step.
    equal: into equal parts."""
    risk: Literal["neutral", "std", "VaR", "wang", "cvar", "cpw"] = "neutral"
    """What the policy makes of quantiles. neutral: their mean. std: less `risk_parameter` of their deviations. VaR: the
    quantile at the fraction `risk_parameter`. wang, cvar, cpw: their mean under a distortion of probabilities."""
    risk_parameter: Annotated[float, Bounds(-100, 100)] = 0.0
    """Of the risk measure; a negative one of a distortion mirrors it."""
    target_policy: bool = True
    """The critics' targets have next actions of a policy that follows the policy, as target critics do critics."""

    relabelling: Literal["none", "replace", "augment"] = "augment"
    """What is done with what was collected. augment: every episode is stored, and a copy of it with the rewards of a
    train task that it fits. replace: the copy takes the place of the episode, with `replace_probability`."""
    replace_probability: Fraction = 0.5
    """How likely an episode is replaced by its copy."""
    choice: Literal["softmax", "arg-max"] = "softmax"
    """How the task of a copy is chosen. softmax: with probabilities of exp(value - log Z). arg-max: the best."""
    log_normaliser: Literal["hfr", "published"] = "hfr"
    """log Z of a task. hfr: from what was collected in it. published: from the lowest quantile, and z without a window,
    which is the same for all tasks."""
    scoring_states: Width = 64
    """Start states of a task that an episode's value for it is a mean over."""

    @classmethod
    def for_family(cls, family: TaskFamily) -> DmrladConfig:
        """As CEMRL's, with copies if rewards of other tasks can be computed."""
        config = super().for_family(family)
        assert isinstance(config, cls)
        return config if family.can_relabel else replace(config, relabelling="none")

    @property
    def has_target_policy(self) -> bool:
        return self.target_policy

    @property
    def stores_evenly(self) -> bool:
        """Copies may all go to the same task."""
        return self.relabelling == "none"

    def stored_visits(self, train_tasks: int) -> int:
        played = super().stored_visits(train_tasks)
        return 2 * played if self.relabelling == "augment" else played

    def check(self, family: TaskFamily) -> None:
        super().check(family)
        if self.critics == "quantile" and self.hidden_layers < 2:
            raise NacreError(
                f"algorithm.hidden_layers is {self.hidden_layers}; allowed with critics quantile: at least 2, as the "
                "last one is for the fractions"
            )
        if self.critics == "expected" and self.risk != "neutral":
            raise NacreError(
                f"algorithm.risk is {self.risk!r}; allowed with critics expected: 'neutral', as they know no quantiles"
            )
        allowed, holds = RISKS[self.risk]
        if not holds(self.risk_parameter):
            raise NacreError(
                f"algorithm.risk_parameter is {self.risk_parameter:g}; allowed with risk {self.risk}: {allowed}"
            )
        lowest = 1 / (2 * self.quantiles)
        if self.risk == "cvar" and abs(self.risk_parameter) <= lowest:
            raise NacreError(
                f"algorithm.risk_parameter is {self.risk_parameter:g}; allowed with risk cvar and {self.quantiles} "
                f"quantiles: more than {lowest:g} in size, as the lowest of equal parts has its midpoint there"
            )
        if self.relabelling == "none":
            return
        if not family.can_relabel:
            raise NacreError(
                f"algorithm.relabelling is {self.relabelling!r}; allowed for {family.name}: 'none', as the rewards of "
                "another task cannot be computed for what was played"
            )
        if self.initial_steps == 0:
            raise NacreError(
                "algorithm.initial_steps is 0; allowed with relabelling: at least 1, as the value of a task is a mean "
                "over states in which its episodes began"
            )
