"""What a run meets: damaged and hostile files, impossible configurations, kills. Over any experiment that is known.

`python tests/attackers.py EXPERIMENT... [--files N] [--configurations N] [--kills N] [--seed N]` attacks each
experiment, or all named ones if none is given, and prints figures. It ends with 1 if anything ended in something else
than a sentence or the right result.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nacre import make_experiment, train
from nacre.errors import NacreError
from nacre.experiments import Experiment, named_experiments, validate
from nacre.experiments.experiment import field_types, from_json, override, to_json
from nacre.files import read_npz, write_npz
from nacre.loading import read_trained
from nacre.logs import read_progress_csv
from nacre.run import Run
from nacre.run_folder import read_run
from nacre.tasks import make_family

SMALL = {
    "iterations": 2,
    "train_tasks": 3,
    "test_tasks": 2,
    "hidden_size": 8,
    "hidden_sizes": (8, 8),
    "encoder_hidden_size": 8,
    "latent_size": 2,
    "initial_steps": 40,
    "tasks_per_iteration": 2,
    "prior_steps": 20,
    "posterior_steps": 0,
    "visit_steps": 20,
    "extra_posterior_steps": 20,
    "updates_per_iteration": 4,
    "update_chunk": 2,
    "meta_batch_size": 2,
    "batch_size": 8,
    "context_size": 8,
    "threads": 1,
}
"""Values that make an experiment one of seconds, for those of its fields that are there and may have them."""

ODD: list[Any] = [
    None, True, 0, -1, 1, 5, 0.5, -0.5, 2**31, 2**63, -(2**63), 10**400, 1e308, 1e-308, math.nan, math.inf, "", "x",
    "\x1b[31mred", "caf\udce9", "$\\frac{$", [], {}, [[]], [1, [2]], {"a": None}, "9" * 1000,
]  # fmt: skip


def small(name: str) -> Experiment:
    """A named experiment, made small as far as its own checks allow."""
    experiment = make_experiment(name)
    fields = {**field_types(Experiment), **field_types(type(experiment.algorithm))}
    for field, value in SMALL.items():
        if field not in fields:
            continue
        try:
            changed = override(experiment, {field: value})
            validate(changed, make_family(changed.family))
        except NacreError:
            continue
        experiment = changed
    return experiment


def impossible_configurations(experiment: Experiment, generator: np.random.Generator, n: int) -> Counter[str]:
    """Sets random fields to odd values, in JSON and by keyword. Each is refused in a sentence, or is valid."""
    outcomes: Counter[str] = Counter()
    fields = [*field_types(Experiment), *field_types(type(experiment.algorithm))]
    for _ in range(n):
        chosen = generator.choice(fields, generator.integers(1, 4), replace=False).tolist()
        changes = {field: ODD[generator.integers(len(ODD))] for field in chosen}

        def check(changes: dict[str, Any] = changes) -> None:
            changed = override(experiment, changes)
            validate(changed, make_family(changed.family))
            if from_json(json.loads(json.dumps(to_json(changed)))) != changed:
                raise AssertionError("the experiment is another after it was written and read")

        outcomes[outcome(check)] += 1
    return outcomes


def outcome(attempt: Callable[[], Any]) -> str:
    """How an attempt ended: "refused" in a sentence, "accepted", or "FAILED"."""
    try:
        attempt()
    except NacreError as error:
        if len(str(error)) < 3000:
            return "refused"
        print(f"a message of {len(str(error))} characters: {str(error)[:200]}")
    except Exception:
        traceback.print_exc()
    else:
        return "accepted"
    return "FAILED"


def damaged_files(run: Path, generator: np.random.Generator, n: int) -> Counter[str]:
    """Damages one file of a copy of a run, again and again, and reads all of it.

    Either it is refused, or there was a warning, or what was read is what is there without the damage.
    """
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        expected = contents(run)
        for number in range(n):
            copy = Path(folder) / str(number)
            shutil.copytree(run, copy)
            path, damage = _damage(copy, generator)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found: list[Any] = []
                ended = outcome(lambda copy=copy, found=found: found.append(contents(copy)))
            if ended == "accepted" and found[0] != expected:
                ended = "warned" if caught else "FAILED"
                if ended == "FAILED":
                    print(f"{damage} of {path.relative_to(copy)} was not noticed")
            elif ended == "FAILED":
                print(f"... after {damage} of {path.relative_to(copy)}")
            outcomes[ended] += 1
            shutil.rmtree(copy)
    return outcomes


def contents(run: Path) -> list[Any]:
    """All that a run folder says, as something that can be compared."""
    experiment, split = read_run(run)
    made = Run(run, experiment, split)
    columns = read_progress_csv(run / "progress.csv")
    states = [_bytes(made.state), _bytes(made.memory.arrays), _bytes(read_trained(run).parameters)]
    results = {name: column.tolist() for name, column in columns.items()}
    return [experiment, split.train.tolist(), split.test.tolist(), made.position, states, repr(results)]


def _bytes(tree: Any) -> list[bytes]:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    keys = jax.dtypes.prng_key
    plain = [jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, keys) else leaf for leaf in leaves]
    return [np.asarray(leaf).tobytes() for leaf in plain]


def _damage(run: Path, generator: np.random.Generator) -> tuple[Path, str]:
    """Damages a file that counts, in a random way."""
    files = [run / "experiment.json", run / "progress.csv", *sorted((run / "checkpoints").glob("iteration*"))]
    files += sorted((run / "replay").glob("*.npz"))
    path = files[generator.integers(len(files))]
    kinds: list[Callable[[Path, np.random.Generator], None]] = [_flip, _cut, _empty]
    kinds += {".json": [_change_json] * 6, ".npz": [_change_array] * 4, ".csv": [_change_csv] * 3}[path.suffix]
    damage = kinds[generator.integers(len(kinds))]
    damage(path, generator)
    return path, damage.__name__.strip("_")


def _flip(path: Path, generator: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[generator.integers(len(content))] ^= 1 << int(generator.integers(8))
    path.write_bytes(content)


def _cut(path: Path, generator: np.random.Generator) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: generator.integers(len(content))])


def _empty(path: Path, generator: np.random.Generator) -> None:
    path.write_bytes(b"")


def _change_json(path: Path, generator: np.random.Generator) -> None:
    """Puts something odd in place of a value, somewhere; half of the time with a checksum that nobody checks."""
    content = json.loads(path.read_text())
    _change_value(content, generator)
    if generator.integers(2) and isinstance(content, dict):
        content["checksum"] = None
    path.write_text(json.dumps(content))


def _change_value(content: Any, generator: np.random.Generator) -> None:
    places = list(_places(content))
    container, key = places[generator.integers(len(places))]
    if generator.integers(4):
        container[key] = ODD[generator.integers(len(ODD))]
    else:
        del container[key]


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield content, key
        yield from _places(value)


def _change_array(path: Path, generator: np.random.Generator) -> None:
    """Writes the file anew, valid, with another shape, type or value of an array, or with another manifest."""
    arrays = read_npz(path)
    name = sorted(arrays)[generator.integers(len(arrays))]
    if name == "manifest" or (generator.integers(3) == 0 and "manifest" in arrays):
        manifest = json.loads(arrays["manifest"].tobytes())
        _change_value(manifest, generator)
        arrays["manifest"] = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    else:
        array = arrays[name]
        changes = [array[:-1] if array.ndim else array[None], array.astype(np.float64), array.reshape(-1)[:0]]
        changes += [array[..., None], np.full(array.shape, "x"), np.concatenate([array.reshape(-1)] * 2)]
        arrays[name] = changes[generator.integers(len(changes))]
        if generator.integers(5) == 0:
            del arrays[name]
    write_npz(path, arrays)


def _change_csv(path: Path, generator: np.random.Generator) -> None:
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    row = rows[generator.integers(len(rows))]
    place = int(generator.integers(len(row)))
    words = ["1e308", "nan", "-1", "x", "", '"', "\x1b[2J", "9" * 500, row[place] + "0"]
    if generator.integers(5):
        row[place] = words[generator.integers(len(words))]
    else:
        row.append("7")
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def kills(experiment: Experiment, generator: np.random.Generator, n: int) -> Counter[str]:
    """Kills a run at random moments and resumes it, until it is complete: it has to be what it is without kills."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "experiment.json"
        configuration.write_text(json.dumps(to_json(experiment)))
        reference, start = Path(folder) / "reference", time.monotonic()
        if _start(configuration, reference).wait() != 0:
            return Counter(FAILED=1)
        seconds, run = time.monotonic() - start, Path(folder) / "run"
        while outcomes["killed"] < n:
            process = _start(configuration, run)
            try:
                code = process.wait(timeout=float(generator.uniform(0, 1.1 * seconds)))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                outcomes["killed"] += 1
                continue
            if code != 0 or _results(run) != _results(reference):
                outcomes["FAILED"] += 1
                return outcomes
            outcomes["complete and equal"] += 1
            shutil.rmtree(run)
    return outcomes


def _start(configuration: Path, run: Path) -> subprocess.Popen[bytes]:
    begun = (run / "experiment.json").exists() and not (run / ".nacre-unfinished").exists()
    words = ["resume", str(run)] if begun else ["train", "--config", str(configuration), "--out", str(run)]
    return subprocess.Popen([sys.executable, "-m", "nacre", *words], stdout=subprocess.DEVNULL)


def _results(run: Path) -> list[dict[str, str]]:
    """Rows of progress.csv without the columns of time."""
    with open(run / "progress.csv", newline="") as file:
        return [{key: value for key, value in row.items() if "(s)" not in key} for row in csv.DictReader(file)]


def attack(name: str, seed: int, files: int, configurations: int, n_kills: int) -> bool:
    """Attacks an experiment and prints figures. Returns whether it stood."""
    generator, experiment = np.random.default_rng(seed), small(name)
    figures = {"configurations": impossible_configurations(experiment, generator, configurations)}
    if files:
        with tempfile.TemporaryDirectory() as folder:
            run = train(experiment, Path(folder) / "run")
            figures["files"] = damaged_files(run, generator, files)
    if n_kills:
        figures["kills"] = kills(experiment, generator, n_kills)
    for what, outcomes in figures.items():
        print(f"{name}, {what}: {', '.join(f'{count} {word}' for word, count in sorted(outcomes.items())) or 'none'}")
    return not any(outcomes["FAILED"] for outcomes in figures.values())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT")
    for flag, default in (("files", 100), ("configurations", 100), ("kills", 0), ("seed", 0)):
        parser.add_argument(f"--{flag}", type=int, default=default, metavar="N")
    options = parser.parse_args(arguments)
    names = options.experiments or list(named_experiments())
    stood = [attack(name, options.seed, options.files, options.configurations, options.kills) for name in names]
    print(f"{sum(stood)} of {len(stood)} experiments stood")
    if not all(stood):
        sys.exit(1)


if __name__ == "__main__":
    main()
