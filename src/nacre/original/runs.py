"""Makes run folders out of what the original code of PEARL, CEMRL and DMRLAD left behind, so that its agents can be
evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nacre.agents import algorithm_of
from nacre.agents.cemrl.config import CemrlConfig
from nacre.agents.pearl.config import PearlConfig
from nacre.checkpoint import checkpoint_label, save_checkpoint
from nacre.errors import NacreError
from nacre.experiments import Experiment, family_of
from nacre.original import cemrl_networks, networks
from nacre.original.cemrl_tasks import known_split
from nacre.original.configs import read_old_config, validate_old
from nacre.original.forces import about_contact_forces
from nacre.original.networks import OldNetworks
from nacre.run_folder import CHECKPOINTS, VARIANT, new_run, read_stamp
from nacre.runtime import Stream, learner_for, prepare_jax, seed_of
from nacre.seeds import key_of
from nacre.tasks import TaskFamily, make_family, split_tasks
from nacre.warm_start import resolve_warm_start, take_networks


def import_old_run(
    folder: Path | str,
    config: Path | str | None = None,
    out: Path | str | None = None,
    *,
    family: str | None = None,
    iteration: int | None = None,
    ignore_unknown: bool = False,
    say: Callable[[str], None] = lambda message: None,
) -> Path:
    """Makes a run folder with the networks of a folder of the original code of PEARL, CEMRL or DMRLAD.

    It is a run that was given these networks (`warm_start`) and has not begun to train: :func:`nacre.evaluate` and
    :func:`nacre.load` take it as any other, and :func:`nacre.resume` would train it from the first iteration on.
    Nothing but the networks, what their inputs are normalised with, and the configuration is read. If only what an
    agent acts with was kept, the run can be evaluated and loaded, and not be resumed.

    Args:
        folder: it holds the networks: context_encoder.pth, policy.pth and so on of PEARL, or encoder_itr_<n>.pth,
            policy_itr_<n>.pth, replay_buffer_stats_dict_<n>.p and so on of CEMRL and DMRLAD.
        config: its configuration; None: the variant.json in it.
        out: the run folder, which must not exist or be empty; None: runs/<algorithm>/<task>/<seed and time>.
        family: the task family in place of the one that the configuration names, of the same sizes, such as
            "humanoid-dir-without-forces".
        iteration: whose networks of CEMRL or DMRLAD; None: the latest that were saved.
        ignore_unknown: whether keys of the configuration that are not known are left out.
        say: called with a sentence about each thing that is not as it was in the original run.

    Returns:
        the run folder.

    Raises:
        NacreError: a file is missing or damaged, the configuration asks for something that is not there, the networks
            do not fit it, or the run folder cannot be used.
    """
    folder = Path(folder)
    path = folder / VARIANT if config is None else Path(config)  # where the original code left it
    if not folder.is_dir():
        raise NacreError(f"{folder} is not a folder")
    if not path.exists():
        raise NacreError(f"{path} does not exist; the original run's configuration is needed: --config FILE.json")
    experiment, messages = read_old_config(path, ignore_unknown, of_run=True)
    for message in messages:
        say(f"{path}: {message}")
    read = experiment = dataclasses.replace(experiment, warm_start=str(folder.absolute()))
    if family is not None:
        experiment = _in_family(experiment, family)
    world = family_of(experiment)
    validate_old(path, read, experiment)
    experiment, old = _read_networks(folder, iteration, experiment, world)
    learner = learner_for(experiment, world)
    with prepare_jax(None):
        is_pearl = isinstance(experiment.algorithm, PearlConfig)
        if is_pearl and not old.missing:
            experiment = resolve_warm_start(experiment, learner)
        known = None if is_pearl else known_split(experiment)
        split = known or split_tasks(
            world, experiment.train_tasks, experiment.test_tasks, experiment.seed, experiment.task_list
        )
        state = learner.initial_state(key_of(seed_of(experiment, Stream.NETWORKS)))
        if old.missing:
            say(f"{folder} has no {', '.join(old.missing)}: the run can be evaluated and loaded, but not resumed")
        if is_pearl and not old.missing:
            state = state._replace(trained=take_networks(state.trained, experiment))
        else:
            state = state._replace(trained=_placed(state.trained, old, folder))
        progress = {"iterations": 0, "updates": 0, "totals": None, "seconds": 0.0}

        def fill(run: Path) -> None:
            stamped = progress | {"run": read_stamp(run, experiment, split)}
            save_checkpoint(run / CHECKPOINTS, checkpoint_label(0), state, stamped, keep=1)

        with new_run(None if out is None else Path(out), experiment, split, fill) as run:
            if known is None and experiment.task_list != "published":
                say(_lost_tasks(experiment))
            forces = about_contact_forces(old.arrays, world)
            if forces is not None:
                say(f"{folder}: {forces}")
    return run


def _read_networks(
    folder: Path, iteration: int | None, experiment: Experiment, world: TaskFamily
) -> tuple[Experiment, OldNetworks]:
    """The networks in a folder, and the experiment with what only they tell."""
    if not isinstance(experiment.algorithm, PearlConfig):
        config = experiment.algorithm
        assert isinstance(config, CemrlConfig)
        number = cemrl_networks.chosen_iteration(folder, iteration)
        old = cemrl_networks.read_old_networks(folder, number, config, world.sizes, experiment.family)
        return experiment, old
    if iteration is not None:
        raise NacreError(f"iteration is {iteration}; allowed: none, as PEARL's code only kept its latest networks")
    arrays = networks.read_old_networks(folder, acting_suffices=True)
    # No configuration names the width of the encoder, which was written into the code.
    width = len(arrays[".networks.encoder.biases[0]"])
    algorithm = dataclasses.replace(experiment.algorithm, encoder_hidden_size=width)
    old = OldNetworks(arrays, networks.FILES, networks.missing_files(folder))
    return dataclasses.replace(experiment, algorithm=algorithm), old


def _placed(trained: Any, old: OldNetworks, folder: Path) -> Any:
    """What is trained, with the networks that were kept. If some are missing, None is in place of all else."""
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(trained)}
    for place, file in old.files.items():
        found = {leaf: array.shape for leaf, array in old.arrays.items() if leaf.startswith(f"{place}.")}
        wanted = {
            name: leaf.shape for name, leaf in leaves.items() if name.startswith(f"{place}.") and not callable(leaf)
        }
        if found and found != wanted:
            raise NacreError(
                f"{folder / file} does not fit the configuration: its arrays are {[*found.values()]}, and those of the "
                f"configuration {[*wanted.values()]}"
            )
        if not all(np.isfinite(old.arrays[leaf]).all() for leaf in found):
            raise NacreError(f"{folder / file} has a value that is not finite")

    def take(path: tuple[Any, ...], leaf: Any) -> Any:
        name = jax.tree_util.keystr(path)
        if name in old.arrays:
            return jnp.asarray(old.arrays[name])
        return leaf if callable(leaf) or not old.missing else None

    return jax.tree_util.tree_map_with_path(take, trained)


def _in_family(experiment: Experiment, name: str) -> Experiment:
    """The experiment in another family of the same sizes."""
    known, family = family_of(experiment), make_family(name)
    for field in ("observation_size", "action_size"):
        if getattr(family, field) != getattr(known, field):
            raise NacreError(
                f"family is {name!r}, whose {field} is {getattr(family, field)}; allowed: a family of the sizes of "
                f"{known.name}, whose {field} is {getattr(known, field)}"
            )
    task_list = experiment.task_list
    if task_list == "published" and not family.has_published_tasks:
        task_list = "seeded"
    algorithm = algorithm_of(experiment.algorithm).name
    return dataclasses.replace(experiment, name=f"{algorithm}/{name}", family=name, task_list=task_list)


def _lost_tasks(experiment: Experiment) -> str:
    family = family_of(experiment)
    lost = f"the original code drew the tasks of {experiment.family} anew in each run and kept no list of them"
    if family.kinds is not None and family.finite_tasks is None:
        lost = f"the list of tasks that the original code drew for {experiment.family}, always the same, is not rebuilt"
    return f"{lost}, so the tasks of this run are others, drawn from seed {experiment.seed}"
