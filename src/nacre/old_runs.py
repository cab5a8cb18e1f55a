"""Makes run folders out of what the original PEARL code left behind, so that its agents can be evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from nacre.checkpoint import checkpoint_label, save_checkpoint
from nacre.collect import key_of
from nacre.errors import NacreError
from nacre.experiments import Experiment, validate
from nacre.experiments.old_config import read_old_config
from nacre.old_forces import about_contact_forces
from nacre.old_networks import read_old_networks
from nacre.run_folder import CHECKPOINTS, create_run_folder
from nacre.runtime import Stream, learner_for, prepare_jax, seed_of
from nacre.tasks import make_family, split_tasks
from nacre.warm_start import settle_warm_start, take_networks

VARIANT = "variant.json"
"""Where the original code left a run's configuration."""


def import_old_run(
    folder: Path | str,
    config: Path | str | None = None,
    out: Path | str | None = None,
    *,
    family: str | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Path:
    """Makes a run folder with the networks of a folder of the original PEARL code.

    It is a run that was given these networks (`warm_start`) and has not begun to train: :func:`nacre.evaluate` and
    :func:`nacre.load` take it as any other, and :func:`nacre.resume` would train it from the first iteration on.
    Nothing but the networks and the configuration is read.

    Args:
        folder: it holds context_encoder.pth, policy.pth, qf1.pth, qf2.pth, vf.pth and target_vf.pth.
        config: its configuration; None: the variant.json in it.
        out: the run folder, which must not exist or be empty; None: runs/<algorithm>/<task>/<seed and time>.
        family: the task family in place of the one that the configuration names, of the same sizes, such as
            "humanoid-dir-without-forces".
        say: called with a sentence about each thing that is not as it was in the original run.

    Returns:
        the run folder.

    Raises:
        NacreError: a file is missing or damaged, the configuration asks for something that is not there, the networks
            do not fit it, or the run folder cannot be used.
    """
    folder = Path(folder)
    path = folder / VARIANT if config is None else Path(config)
    if not folder.is_dir():
        raise NacreError(f"{folder} is not a folder")
    if not path.exists():
        raise NacreError(f"{path} does not exist; the original run's configuration is needed: --config FILE.json")
    experiment, messages = read_old_config(path)
    for message in messages:
        say(f"{path}: {message}")
    # No configuration names the width of the encoder, which was written into the code.
    networks = read_old_networks(folder)
    width = len(networks[".networks.encoder.biases[0]"])
    algorithm = dataclasses.replace(experiment.algorithm, encoder_hidden_size=width)
    experiment = dataclasses.replace(experiment, algorithm=algorithm, warm_start=str(folder))
    if family is not None:
        experiment = _in_family(experiment, family)
    world = make_family(experiment.family)
    validate(experiment, world)
    learner = learner_for(experiment, world)
    with prepare_jax(None):
        experiment = settle_warm_start(experiment, learner)
        split = split_tasks(world, experiment.train_tasks, experiment.test_tasks, experiment.seed, experiment.task_list)
        run = create_run_folder(None if out is None else Path(out), experiment, split)
        if not world.has_published_tasks:
            say(_lost_tasks(experiment))
        if (told := about_contact_forces(networks, world)) is not None:
            say(f"{folder}: {told}")
        state = learner.initial_state(key_of(seed_of(experiment, Stream.NETWORKS)))
        state = state._replace(trained=take_networks(state.trained, experiment))
        progress = {"iterations": 0, "updates": 0, "totals": None, "seconds": 0.0}
        save_checkpoint(run / CHECKPOINTS, checkpoint_label(0), state, progress, keep=1)
    return run


def _in_family(experiment: Experiment, name: str) -> Experiment:
    """The experiment in another family of the same sizes."""
    known, family = make_family(experiment.family), make_family(name)
    for field in ("observation_size", "action_size"):
        if getattr(family, field) != getattr(known, field):
            raise NacreError(
                f"family is {name!r}, whose {field} is {getattr(family, field)}; allowed: a family of the sizes of "
                f"{known.name}, whose {field} is {getattr(known, field)}"
            )
    task_list = experiment.task_list
    if task_list == "published" and not family.has_published_tasks:
        task_list = "seeded"
    return dataclasses.replace(experiment, name=f"pearl/{name}", family=name, task_list=task_list)


def _lost_tasks(experiment: Experiment) -> str:
    return (
        f"the original code drew the tasks of {experiment.family} anew in each run and kept no list of them, so the "
        f"tasks of this run are others, drawn from seed {experiment.seed}"
    )
