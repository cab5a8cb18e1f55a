"""Warm starts: a new run that takes over the networks of another one, or of the original PEARL code, and nothing else.

The value network and its target are each taken over as they are. (The original code read the target into the value
network, and left the target random: spec pearl 7, B4.)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nacre.agents.pearl.learner import PearlLearner
from nacre.agents.pearl.losses import Trained
from nacre.checkpoint import read_part
from nacre.errors import NacreError
from nacre.experiments import Experiment
from nacre.loading import find_checkpoint
from nacre.original.networks import FILES, read_old_networks
from nacre.run_folder import EXPERIMENT


def settle_warm_start(experiment: Experiment, learner: PearlLearner) -> Experiment:
    """The experiment, whose `warm_start` names the very checkpoint or old folder, with its full path.

    Raises:
        NacreError: it is neither, it is damaged, or its networks do not fit the learner's; the message names the first.
    """
    if experiment.warm_start is None:
        return experiment
    source = _find_networks(Path(experiment.warm_start)).absolute()
    _check_fit(source, _read(source), jax.eval_shape(learner.initial_state, jax.random.key(0)).trained, experiment)
    return dataclasses.replace(experiment, warm_start=str(source))


def take_networks(trained: Trained, experiment: Experiment) -> Trained:
    """What is trained, with the networks that `warm_start` names in place of its own; the optimisers' moments stay.

    Raises:
        NacreError: as :func:`settle_warm_start`.
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


def _without_optimisers(trained: Trained) -> Trained:
    return trained._replace(optimisers=None)  # pyright: ignore[reportArgumentType]


def _find_networks(source: Path) -> Path:
    """The checkpoint or the folder of the original code that holds the networks."""
    if (source / EXPERIMENT).exists():
        return find_checkpoint(source, "latest")
    if source.is_file() or any((source / file).exists() for file in FILES.values()):
        return source
    if not source.exists():
        raise NacreError(f"warm_start is {str(source)!r}, which does not exist")
    raise NacreError(
        f"warm_start is {str(source)!r}; allowed: a run folder, one of its checkpoints, or a folder of the original "
        f"PEARL code with {', '.join(FILES.values())}"
    )


def _read(source: Path) -> dict[str, np.ndarray]:
    """The arrays of the networks, by where they are in :class:`Trained`."""
    arrays = read_old_networks(source) if source.is_dir() else read_part(source, ".trained")
    arrays = {leaf: array for leaf, array in arrays.items() if not leaf.startswith(".optimisers")}
    for leaf, array in arrays.items():
        if not np.isfinite(array).all():
            raise NacreError(f"{source} has a value that is not finite in {_in_words(leaf)}")
    return arrays


def _check_fit(source: Path, arrays: Mapping[str, np.ndarray], trained: Trained, experiment: Experiment) -> None:
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
