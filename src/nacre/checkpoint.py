"""Checkpoints: the learner's whole state and the run's counters in one file, written atomically.

A checkpoint is `checkpoints/<label>.npz`. The label counts the iterations that are complete and, inside the next one,
its gradient steps: `iteration_000012`, `iteration_000012_update_000700`. Inside are one array per leaf of the state,
called `state` followed by the leaf's path, and `manifest`, a JSON text with the progress counters and each leaf's
dtype. The replay is not in it: that is the journal's (`nacre/journal.py`).
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nacre.errors import NacreError, shown, without_middle
from nacre.files import leftovers, parse_json, read_npz, remove, set_aside, write_atomically, write_npz
from nacre.types import Tree

FORMAT = 1
BEST = "best.npz"
_LABEL = re.compile(r"iteration_(\d{6,})(?:_update_(\d{6,}))?")


def checkpoint_label(iterations: int, updates: int = 0) -> str:
    """The label after `iterations` complete iterations and `updates` gradient steps of the next one."""
    label = f"iteration_{iterations:06d}"
    return f"{label}_update_{updates:06d}" if updates else label


def save_checkpoint(folder: Path, label: str, state: Tree, progress: dict[str, Any], keep: int) -> Path:
    """Writes `<label>.npz` and removes what it makes superfluous.

    Removed are all but the latest `keep` checkpoints, those of a later label (they belong to a future that was given
    up by resuming from before them), and temporary files of a killed writer. The best checkpoint stays.

    Args:
        folder: the run's `checkpoints` folder, which is there as long as the run is.
        label: as :func:`checkpoint_label` gives it.
        state: a pytree of JAX arrays, typed PRNG keys among them; functions among its leaves are passed over.
        progress: the run's counters, JSON values.
        keep: at least 1.

    Raises:
        NacreError: the disk is full, read-only or the like; earlier checkpoints are untouched.
        TypeError: a leaf of the state is neither a JAX array nor a function.
    """
    if not _LABEL.fullmatch(label):
        raise ValueError(f"{label!r} is not the label of a checkpoint")
    arrays, leaves = {}, {}
    for path, leaf in _stored_leaves(state):
        arrays[path], leaves[path] = _to_numpy(leaf)
    manifest = {"format": FORMAT, "progress": progress, "leaves": leaves}
    text = json.dumps(manifest, allow_nan=True)  # a return may be NaN; Python's JSON reads it back

    checkpoint = folder / f"{label}.npz"
    write_npz(checkpoint, {"manifest": np.frombuffer(text.encode(), np.uint8), **arrays})
    labelled = _checkpoints(folder)
    remove(labelled[labelled.index(checkpoint) + 1 :])
    remove_superfluous(checkpoint, keep)
    return checkpoint


def remove_superfluous(checkpoint: Path, keep: int) -> None:
    """Of the checkpoints up to one, removes all but the latest `keep`; and temporary files of a killed writer.

    Raises:
        NacreError: they cannot be removed.
    """
    labelled = _checkpoints(checkpoint.parent)
    earlier = labelled[: labelled.index(checkpoint)]
    remove([*earlier[: max(0, len(earlier) + 1 - keep)], *leftovers(checkpoint.parent)])


def save_best(checkpoint: Path, metric: str) -> bool:
    """Copies a checkpoint to `best.npz` if `progress[metric]` is higher than that of the best so far.

    A damaged `best.npz` is kept under another name, with a warning: nobody can say how good it was.

    Returns:
        whether it was.

    Raises:
        NacreError: the copy cannot be written, or the old best cannot be read; it is untouched.
    """
    best = checkpoint.with_name(BEST)
    score = float(read_progress(checkpoint)[metric])
    if not score > _best_score(best, metric):
        return False
    write_atomically(best, checkpoint.read_bytes())
    return True


def _best_score(best: Path, metric: str) -> float:
    """What the best checkpoint so far has reached; minus infinity if there is none that can be read."""
    if not best.exists():
        return -math.inf
    try:
        return float(read_progress(best)[metric])
    except (KeyError, TypeError, ValueError, OverflowError):
        damage = f"{best} does not say what its {metric} is"
    except NacreError as error:
        if isinstance(error.__cause__, OSError):  # the file may be good: it could not be read
            raise
        damage = str(error)
    aside = set_aside(best)
    warnings.warn(f"{damage}; it is kept as {aside.name}, and the best is chosen anew from here on", stacklevel=3)
    return -math.inf


def load_checkpoint(path: Path, like: Tree) -> tuple[Tree, dict[str, Any]]:
    """Reads a checkpoint into a state of the same structure as `like`.

    Args:
        path: the file.
        like: a state of the experiment that the checkpoint belongs to, or its shapes (from `jax.eval_shape`).

    Returns:
        the state, equal to the saved one bit for bit, on the default device; and the progress counters.

    Raises:
        NacreError: the file is missing or damaged, or was saved from a state of other leaves, shapes or dtypes.
    """
    arrays = read_npz(path)
    manifest = _manifest(path, arrays)
    expected = dict(_stored_leaves(like))
    for leaf_path in manifest["leaves"]:
        if leaf_path not in expected:
            raise NacreError(f"{path} is of another experiment: its {without_middle(leaf_path, 200)} is unknown here")
    return _restore(path, manifest["leaves"], arrays, like), manifest["progress"]


def load_selected(path: Path, like: Tree, select: Callable[[Tree], Tree]) -> Tree:
    """Reads a part of the state that a checkpoint holds, and only that.

    Args:
        path: the file.
        like: the shapes of the whole state (from `jax.eval_shape`).
        select: picks the part out of a state. It computes nothing.

    Raises:
        NacreError: as :func:`load_checkpoint`.
    """
    leaves = _manifest(path, read_npz(path, only="manifest"))["leaves"]
    named = jax.tree_util.tree_map_with_path(lambda leaf_path, leaf: _Named(_name(leaf_path), leaf), like)
    part = select(named)
    wanted = [leaf for leaf in jax.tree.leaves(part, is_leaf=_is_named) if _is_stored(leaf.name, leaf.leaf)]
    for leaf in wanted:
        _check_leaf(path, leaf.name, leaf.leaf, leaves)
    arrays = {leaf.name: read_npz(path, only=leaf.name)[leaf.name] for leaf in wanted}

    def restore(leaf: _Named) -> Any:
        if leaf.name not in arrays:
            return leaf.leaf
        return _from_numpy(path, leaf.name, arrays[leaf.name], leaves[leaf.name])

    return jax.tree.map(restore, part, is_leaf=_is_named)


class _Named(NamedTuple):
    """A leaf of a state, with its name in checkpoints."""

    name: str
    leaf: Any


def _is_named(value: Any) -> bool:
    return isinstance(value, _Named)


def read_part(path: Path, part: str) -> dict[str, np.ndarray]:
    """The arrays of a part of the state that a checkpoint holds, by where they are in it, such as `.value.biases[0]`.

    Args:
        path: the file.
        part: where in the state the part is, such as `.trained.networks`.

    Raises:
        NacreError: the file is missing, damaged, or not a checkpoint.
    """
    arrays = read_npz(path)
    leaves = _manifest(path, arrays)["leaves"]
    prefix = f"state{part}"
    found = {name: array for name, array in arrays.items() if name.startswith(prefix) and name in leaves}
    for name, array in found.items():
        _check_array(path, name, array, leaves[name])
    return {name.removeprefix(prefix): array for name, array in found.items()}


def read_progress(path: Path) -> dict[str, Any]:
    """The progress counters of a checkpoint, without reading its state.

    Raises:
        NacreError: the file is missing, damaged, or not a checkpoint.
    """
    return _manifest(path, read_npz(path, only="manifest"))["progress"]


def latest_checkpoint(folder: Path) -> tuple[Path, list[str]]:
    """The latest intact checkpoint of a run's `checkpoints` folder.

    Returns:
        its path, and one warning for each later one that is damaged.

    Raises:
        NacreError: there is none; the message names each damaged file and what is wrong with it.
    """
    labelled = _checkpoints(folder)
    if not labelled:
        raise NacreError(f"{folder} has no checkpoint")
    damages: list[str] = []
    for path in reversed(labelled):
        try:
            arrays = read_npz(path)
            leaves = _manifest(path, arrays)["leaves"]
            missing = leaves.keys() - arrays.keys()
            if missing:
                raise NacreError(f"{path} is damaged: it has no {shown(min(missing))}")
            for name, facts in leaves.items():
                _check_array(path, name, arrays[name], facts)
        except NacreError as error:
            damages.append(str(error))
        else:
            return path, [f"{damage}; going on from {path.name}" for damage in damages]
    raise NacreError(f"{folder} has no intact checkpoint: {'; '.join(damages)}")


def _checkpoints(folder: Path) -> list[Path]:
    """The labelled checkpoints of a folder, earliest first."""
    labels = {path: _LABEL.fullmatch(path.stem) for path in folder.glob("*.npz")}
    order = {path: (int(match[1]), int(match[2] or 0)) for path, match in labels.items() if match}
    return sorted(order, key=order.__getitem__)


def _manifest(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    try:
        manifest = parse_json(arrays["manifest"].tobytes())
        version, progress, leaves = manifest["format"], manifest["progress"], manifest["leaves"]
    except (KeyError, TypeError, ValueError):
        raise NacreError(f"{path} is not a checkpoint of nacre") from None
    if version != FORMAT:
        raise NacreError(
            f"{path} is a checkpoint of format {shown(version)}; this version of nacre reads format {FORMAT}"
        )
    if not isinstance(progress, dict) or not isinstance(leaves, dict) or not all(map(_is_facts, leaves.values())):
        raise NacreError(f"{path} is damaged: its manifest does not say what is in it")
    return manifest


def _is_facts(facts: Any) -> bool:
    """Whether it is what a manifest says of an array."""
    return (
        isinstance(facts, dict)
        and isinstance(facts.get("dtype"), str)
        and isinstance(facts.get("shape"), list)
        and all(type(size) is int and size >= 0 for size in facts["shape"])
        and isinstance(facts.get("key", ""), str)
    )


def _check_array(path: Path, name: str, array: np.ndarray, facts: dict[str, Any]) -> None:
    """Raises NacreError if an array is not what the manifest says of it."""
    shape = tuple(facts["shape"])
    if "key" in facts:
        fits = array.dtype == np.uint32 and array.ndim == len(shape) + 1 and array.shape[:-1] == shape
    else:
        try:
            dtype = jnp.dtype(facts["dtype"])
        except (TypeError, ValueError):
            raise NacreError(f"{path} is damaged: {name} is of an unknown dtype, {shown(facts['dtype'])}") from None
        stored = np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype
        fits = array.dtype == stored and array.shape == shape
    if not fits:
        raise NacreError(
            f"{path} is damaged: {name} is {array.dtype}{array.shape} in it, and {shown(facts['dtype'])}{shape} in its "
            "manifest"
        )


def _restore(path: Path, stored: dict[str, Any], arrays: dict[str, np.ndarray], like: Tree) -> Tree:
    """The tree `like`, with its leaves from `arrays`; `stored` are the facts about them from the manifest."""
    complete = {name: facts for name, facts in stored.items() if name in arrays}
    for name, leaf in _stored_leaves(like):
        _check_leaf(path, name, leaf, complete)

    def restore(leaf_path: tuple[Any, ...], leaf: Any) -> Any:
        name = _name(leaf_path)
        return _from_numpy(path, name, arrays[name], stored[name]) if name in complete else leaf

    return jax.tree_util.tree_map_with_path(restore, like)


def _check_leaf(path: Path, name: str, leaf: Any, stored: dict[str, Any]) -> None:
    """Raises NacreError if what is stored under a name is not a leaf of this dtype and shape."""
    if name not in stored:
        raise NacreError(f"{path} is of another experiment: it has no {name}")
    found = f"{stored[name]['dtype']}{tuple(stored[name]['shape'])}"
    if found != f"{leaf.dtype}{leaf.shape}":
        raise NacreError(f"{path} is of another experiment: {name} is {found} in it and {leaf.dtype}{leaf.shape} here")


def _name(path: tuple[Any, ...]) -> str:
    return "state" + jax.tree_util.keystr(path)


def _is_stored(name: str, leaf: Any) -> bool:
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return True
    if isinstance(leaf, Callable):  # an activation function in an equinox module
        return False
    raise TypeError(f"{name} is {type(leaf).__name__}; every leaf of a state has to be a JAX array")


def _stored_leaves(state: Tree) -> list[tuple[str, Any]]:
    named = [(_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]
    return [(name, leaf) for name, leaf in named if _is_stored(name, leaf)]


def _to_numpy(leaf: jax.Array) -> tuple[np.ndarray, dict[str, Any]]:
    """The leaf as an array of a dtype that the npy format knows, and the facts to turn it back."""
    facts: dict[str, Any] = {"dtype": str(leaf.dtype), "shape": leaf.shape}
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        facts["key"] = str(jax.random.key_impl(leaf))
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return (array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array), facts  # "V": bfloat16 and its kin


def _from_numpy(path: Path, name: str, array: np.ndarray, facts: dict[str, Any]) -> jax.Array:
    _check_array(path, name, array, facts)
    if "key" in facts:
        try:
            return jax.random.wrap_key_data(jnp.array(array), impl=facts["key"])
        except (TypeError, ValueError):  # of a kind of generator that is not there, or of another size
            raise NacreError(f"{path} is damaged: {name} is no key of {shown(facts['key'])}") from None
    return jnp.array(array.view(jnp.dtype(facts["dtype"])))
