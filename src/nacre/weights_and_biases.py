"""Weights & Biases: metrics, configuration, figures and videos of runs, if the package wandb is installed.

Each run has a board of its own there, under the name that its folder gives it. So a run that goes on, its evaluations
and its reports find it again. What is not sent, as with WANDB_MODE=offline, is in the folder `wandb` of the run.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nacre.errors import NacreError, in_one_line
from nacre.experiments import to_json
from nacre.iteration import Iteration
from nacre.logs import tensorboard_tag
from nacre.protocol import TEST_RETURN
from nacre.report.curves import STEPS
from nacre.run_folder import read_name, read_run, runs_in

if TYPE_CHECKING:
    from nacre.evaluation import Evaluation

PROJECT = "nacre"
"""Unless WANDB_PROJECT says another."""


class Boards:
    """The boards of runs that are trained: call it after each iteration, as `on_iteration`."""

    def __init__(self, wandb: Any):
        """Use :func:`boards`."""
        self._wandb = wandb
        self._open: dict[Path, Any] = {}

    def __call__(self, iteration: Iteration) -> None:
        """Sends the row of an iteration. The first one of a run opens its board."""
        if iteration.run not in self._open:
            self._open[iteration.run] = _open_board(self._wandb, iteration.run)
        groups = iteration.experiment.algorithm.tensorboard_groups
        row = {tensorboard_tag(name, groups): value for name, value in iteration.columns.items()}
        self._open[iteration.run].log({name: value for name, value in row.items() if not math.isnan(value)})

    def finish(self, exit_code: int) -> None:
        """Draws the learning curves, and closes all boards."""
        for run, board in self._open.items():
            with contextlib.suppress(NacreError):  # progress.csv may be what has gone wrong
                board.log({"figures/learning_curve": _learning_curve(self._wandb, run)})
            board.finish(exit_code=exit_code)
        self._open.clear()


@contextlib.contextmanager
def boards(*runs: Path) -> Iterator[Boards]:
    """Boards for the runs that :func:`nacre.train` or :func:`nacre.resume` train: give it to them as `on_iteration`.

    Args:
        runs: the folders of those that are there already.

    Raises:
        NacreError: wandb is not installed, nobody is logged in, or one of the runs can have no board.
    """
    found = Boards(ready(*runs))
    try:
        yield found
    except BaseException:
        found.finish(exit_code=1)
        raise
    found.finish(exit_code=0)


def send_evaluation(run: Path, evaluation: Evaluation, result: Path) -> None:
    """Sends what :func:`nacre.evaluate` found, and the videos that it drew.

    Args:
        run: the run folder.
        evaluation: the returns.
        result: the file of the result. Videos are in a folder of its name without the suffix.

    Raises:
        NacreError: wandb is not installed, nobody is logged in, or the run is of a version that gave runs no name.
    """
    wandb = ready(run)
    with _board(wandb, run) as board:
        returns = evaluation.returns_by_episode
        columns = [f"episode {episode}" for episode in range(1, 1 + returns.shape[1])]
        rows = [
            [", ".join(f"{value:.6g}" for value in task), *map(float, row)]
            for task, row in zip(evaluation.tasks, returns, strict=True)
        ]
        name = f"evaluation/{result.stem}"
        entries: dict[str, Any] = {f"{name}/returns": wandb.Table(["task", *columns], rows)}
        entries |= {f"{name}/{column}": float(mean) for column, mean in zip(columns, returns.mean(axis=0), strict=True)}
        videos = sorted(result.with_suffix("").glob("*.mp4"))
        entries |= {f"{name}/{video.stem}": wandb.Video(str(video), format="mp4") for video in videos}
        board.log(entries)


def send_report(run: Path, page: Path) -> None:
    """Sends a page of :func:`nacre.report.write_report`, with its figures.

    Raises:
        NacreError: as :func:`send_evaluation`.
    """
    wandb = ready(run)
    with _board(wandb, run) as board:
        board.log({"report": wandb.Html(str(page), inject=False)})


def ready(*runs: Path) -> Any:
    """The package wandb, if it can be used for some runs: to be called before the work whose results it is to have.

    Args:
        runs: their folders, or those of several seeds.

    Raises:
        NacreError: it cannot.
    """
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise NacreError("Weights & Biases needs the package wandb: pip install '.[wandb]' in a clone") from None
    for run in runs_in(runs):
        _name(run)
    if wandb.setup().settings.mode in ("online", "shared"):
        try:
            wandb.login()
        except Exception as error:  # of whatever kind: wandb has many
            raise _refused(error) from None
    return wandb


def _open_board(wandb: Any, run: Path) -> Any:
    """The board of a run: a new one, or the one that it has already.

    Raises:
        NacreError: wandb refuses it, or the run has no name.
    """
    experiment, _ = read_run(run)
    try:
        board = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=_name(run),
            name=f"{experiment.name}, seed {experiment.seed}",
            group=os.environ.get("WANDB_RUN_GROUP") or experiment.name,
            config=to_json(experiment),
            dir=str(run),
            resume="allow",
            reinit="create_new",
        )
    except Exception as error:  # of whatever kind: wandb has many
        raise _refused(error) from None
    steps = tensorboard_tag(STEPS)
    board.define_metric(steps)
    board.define_metric("*", step_metric=steps)
    board.define_metric(tensorboard_tag(TEST_RETURN), summary="last")
    return board


def _name(run: Path) -> str:
    """Raises NacreError if a run has none."""
    name = read_name(run)
    if name is None:
        raise NacreError(
            f"{run} was made by an earlier version of nacre, which gave runs no name: Weights & Biases cannot have it"
        )
    return name


@contextlib.contextmanager
def _board(wandb: Any, run: Path) -> Iterator[Any]:
    board = _open_board(wandb, run)
    try:
        yield board
    finally:
        board.finish()


def _learning_curve(wandb: Any, run: Path) -> Any:
    from matplotlib.figure import Figure
    from PIL import Image

    from nacre.report import learning_curve, read_runs, references_of

    (experiment,), curves = read_runs([run])
    figure = Figure(figsize=(8, 5), layout="constrained")
    learning_curve(figure.subplots(), curves, references_of(experiment))
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return wandb.Image(Image.open(file))


def _refused(error: Exception) -> NacreError:
    return NacreError(
        f"Weights & Biases cannot be used ({in_one_line(error)}); wandb login, or WANDB_MODE=offline, may help"
    )
