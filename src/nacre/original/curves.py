"""Learning curves that the original code of PEARL, CEMRL and DMRLAD left in progress.csv (spec pearl 2.6, cemrl-dmrlad
4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from nacre.errors import NacreError
from nacre.experiments import Experiment, family_of
from nacre.experiments.configuration_files import read_values
from nacre.files import cannot
from nacre.logs import CSV, read_progress_csv
from nacre.original.configs import read_old_config
from nacre.run_folder import EXPERIMENT, VARIANT


class _Columns(NamedTuple):
    """Names of the columns of a code base."""

    steps: str
    seconds: str
    test_return: str
    test_success: str | None = None


_PEARL = _Columns("Number of env steps total", "Total Train Time (s)", "AverageReturn_all_test_tasks")
_CEMRL = _Columns("n_env_steps_total", "time_total", "test_eval_avg_reward_deterministic", "test_eval_success_rate")
_OWN = "AverageReturn_test_episode_"
"""How columns begin that only nacre writes."""
_DISTRIBUTIONAL = "ZF1 Loss"
"""A column that tells DMRLAD from CEMRL."""


@dataclass(frozen=True)
class OldCurve:
    """What an old run's folder tells of its learning."""

    code_base: str
    environment: str | None
    """By its old name; None: no configuration was found."""
    experiment: Experiment | None
    """What its configuration is here; None: there is none, or it cannot be read."""
    configuration: str
    """The same for runs that differ in nothing but the seed."""
    steps: Float64[np.ndarray, " iterations"]
    """Environment steps."""
    seconds: Float64[np.ndarray, " iterations"]
    """Not numbers if they were not recorded."""
    returns: Float64[np.ndarray, " iterations"]
    """On test tasks, of the last episode of a trial, by the deterministic policy."""
    successes: Float64[np.ndarray, " iterations"] | None
    """The share of test trials; None: not recorded."""

    @property
    def has_one_episode(self) -> bool:
        """Whether a trial is one episode, so that its first is its last."""
        return self.code_base != "PEARL"

    @property
    def protocol(self) -> str:
        """How it was meta-tested, in a sentence."""
        if self.code_base == "PEARL":
            return "of PEARL's own code: the last episode of a trial, by the mean over its test tasks"
        trials = None if self.experiment is None else self.experiment.algorithm.protocol(1).trials
        episodes = "episodes" if trials is None else f"{trials} episode(s)"
        return (
            f"of {self.code_base}'s own code: {episodes} on each of its test tasks, with deterministic actions that "
            "adapt within the episode"
        )

    @property
    def kind(self) -> str:
        """Whose run it is and on what."""
        return f"{self.environment or 'a run'} of {self.code_base}'s own code"


def old_runs_in(path: Path) -> list[Path]:
    """Old runs: the path itself, a folder of one or its progress.csv; or those in a folder of several. None if it has
    nothing to do with old code."""
    if path.is_file():
        return [path] if path.suffix == ".csv" else []
    if (path / EXPERIMENT).exists() or not path.is_dir():
        return []
    if (path / CSV).exists():
        return [path]
    try:
        inner = sorted(folder for folder in path.iterdir() if (folder / CSV).exists())
    except OSError as error:
        raise cannot("read", path, error) from error
    return [] if any((folder / EXPERIMENT).exists() for folder in inner) else inner


def read_old_curve(path: Path) -> OldCurve:
    """The learning curve of an old run.

    Args:
        path: its folder, or its progress.csv.

    Raises:
        NacreError: it cannot be read, is damaged, is of no code base that is known, or has no complete row.
    """
    table, variant = (path, path.parent / VARIANT) if path.is_file() else (path / CSV, path / VARIANT)
    found = read_progress_csv(table)
    if not max(map(len, found.values()), default=0):
        raise NacreError(f"{table} has no complete row")
    if any(column.startswith(_OWN) for column in found):
        raise NacreError(f"{table} is of a run of nacre; allowed: the folder of that run, with its {EXPERIMENT}")
    own = next((own for own in (_PEARL, _CEMRL) if {own.steps, own.test_return} <= found.keys()), None)
    if own is None:
        raise NacreError(
            f"{table} is of no code base that is known: it has neither {_PEARL.steps!r} and {_PEARL.test_return!r}, as "
            f"PEARL's, nor {_CEMRL.steps!r} and {_CEMRL.test_return!r}, as those of CEMRL and DMRLAD"
        )
    code_base = "PEARL" if own is _PEARL else "DMRLAD" if _DISTRIBUTIONAL in found else "CEMRL"
    return OldCurve(
        code_base,
        *_configuration(variant),
        found[own.steps],
        found.get(own.seconds, np.full(len(found[own.steps]), np.nan)),
        found[own.test_return],
        None if own.test_success is None else found.get(own.test_success),
    )


def _configuration(variant: Path) -> tuple[str | None, Experiment | None, str]:
    """The environment, the experiment, and what is the same for all seeds."""
    if not variant.exists():
        return None, None, ""
    content = read_values(variant)
    if not isinstance(content, dict):
        raise NacreError(f"{variant} is no configuration of an old run: it is not a JSON object")
    name = content.get("env_name")
    try:
        experiment, _ = read_old_config(variant, ignore_unknown=True, of_run=True)
        family_of(experiment)
    except NacreError:  # what cannot be trained here can be drawn
        experiment = None
    return name if isinstance(name, str) else None, experiment, repr(_without_seed(content))


def _without_seed(content: Any) -> Any:
    """A configuration without what differs between the seeds of one, sorted."""
    if not isinstance(content, dict):
        return content
    left_out = ("seed", "exp_name", "exp_id", "gpu_id", "num_workers", "use_multiprocessing", "base_log_dir")
    return sorted((str(key), _without_seed(value)) for key, value in content.items() if key not in left_out)
