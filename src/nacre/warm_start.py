"""Warm starts: a new run that takes the networks of another one, or of an old code base, and nothing else.

Networks and their targets are each taken as they are. Of what a learner has trained, all but the `optimisers` counts as
networks.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nacre.checkpoint import read_part
from nacre.errors import NacreError
from nacre.experiments import Experiment
from nacre.extensions import command
from nacre.interfaces import Learner
from nacre.loading import find_checkpoint
from nacre.original import NETWORK_FILES, has_networks, is_to_be_imported, read_networks
from nacre.run_folder import EXPERIMENT
from nacre.types import Tree


def resolve_warm_start(experiment: Experiment, learner: Learner) -> Experiment:
    """The experiment, with `warm_start` as the full path of the checkpoint or of the old folder.

    Raises:
        NacreError: it is neither, it is damaged, or its networks do not fit the learner's; the message names the first.
    """
    if experiment.warm_start is None:
        return experiment
    source = _find_networks(Path(experiment.warm_start)).absolute()
    _check_fit(source, _read(source), jax.eval_shape(learner.initial_state, jax.random.key(0)).trained, experiment)
    return dataclasses.replace(experiment, warm_start=str(source))


def take_networks(trained: Tree, experiment: Experiment) -> Tree:
    """What is trained, with the networks that `warm_start` names in place of its own; the optimisers' moments stay.

    Raises:
        NacreError: as :func:`resolve_warm_start`.
    """
    if experiment.warm_start is None:
        return trained
    source = _find_networks(Path(experiment.warm_start))
    arrays = _read(source)
    _check_fit(source, arrays, trained, experiment)
    taken = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(arrays[jax.tree_util.keystr(path)]), _without_optimisers(trained)
    )
    return taken._replace(optimisers=trained.optimisers)


def _without_optimisers(trained: Tree) -> Tree:
    return trained._replace(optimisers=None)


def _find_networks(source: Path) -> Path:
    """The checkpoint or the folder of an old code base that holds the networks."""
    if (source / EXPERIMENT).exists():
        return find_checkpoint(source, "latest")
    if source.is_file() or has_networks(source):
        return source
    if is_to_be_imported(source):
        raise NacreError(
            f"warm_start is {str(source)!r}, networks that have to be imported first; begin with the "
            f"run that this makes: {command('import', source)}"
        )
    if not source.exists():
        raise NacreError(f"warm_start is {str(source)!r}, which does not exist")
    raise NacreError(
        f"warm_start is {str(source)!r}; allowed: a run folder, one of its checkpoints, or {NETWORK_FILES}"
    )


def _read(source: Path) -> dict[str, np.ndarray]:
    """The arrays of the networks, by where they are in what a learner has trained."""
    arrays = read_networks(source) if source.is_dir() else read_part(source, ".trained")
    arrays = {leaf: array for leaf, array in arrays.items() if not leaf.startswith(".optimisers")}
    for leaf, array in arrays.items():
        if not np.isfinite(array).all():
            raise NacreError(f"{source} has a value that is not finite in {_in_words(leaf)}")
    return arrays


def _check_fit(source: Path, arrays: Mapping[str, np.ndarray], trained: Tree, experiment: Experiment) -> None:
    """Raises NacreError, naming the first network of the source that cannot take the place of the experiment's."""
    leaves = jax.tree_util.tree_leaves_with_path(_without_optimisers(trained))
    wanted = {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
    found = {leaf: array.shape for leaf, array in arrays.items()}
    for leaf in [*wanted, *found]:
        if wanted.get(leaf) != found.get(leaf):
            raise NacreError(
                f"{source} does not fit {experiment.name}: {_in_words(leaf)} is {found.get(leaf, 'missing')} there and "
                f"{wanted.get(leaf, 'missing')} here; the family's sizes, those of z and of the hidden layers, the "
                "encoder and what it sees have to be the same"
            )


def _in_words(leaf: str) -> str:
    """`.networks.encoder.weights[0]` as "weights[0] of the encoder"."""
    match = re.fullmatch(r"\.(?:networks\.)?(\w+(?:\[\d+\])?)\.(.+)", leaf)
    return f"{match[2]} of the {match[1].replace('_', ' ')}" if match else leaf
