"""What a run meets: damaged and hostile input, impossible configurations, kills. Over any experiment that is known.

`python tests/attackers.py EXPERIMENT... [--inputs N] [--configurations N] [--kills N] [--seed N]` attacks each
experiment, or all named ones if none is given, and prints figures. It ends with 1 if anything ended in something else
than a sentence or the right result. `benchmarks/reliability/attack.py` does the same in many processes.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import math
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from killers import COMMANDS, Storm, serve

from nacre import cli, import_old_run, make_experiment
from nacre.errors import NacreError
from nacre.estimate import check_memory
from nacre.experiments import Experiment, family_of, named_experiments, validate
from nacre.experiments.configuration_files import read_configuration
from nacre.experiments.experiment import field_types, from_json, override, to_json
from nacre.files import read_npz, write_npz
from nacre.loading import read_trained
from nacre.logs import read_progress_csv
from nacre.run import Run
from nacre.run_folder import read_run
from nacre.training import plan

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
    "evaluation_steps": 60,
    "classes": 2,
    "window": 3,
    "width_factor": 1.0,
    "hidden_layers": 1,
    "encoder_steps": 20,
    "encoder_batch_size": 4,
    "evaluate_every": 5,
    "patience": 10,
    "policy_steps": 4,
    "policy_batch_size": 4,
    "quantiles": 3,
    "embedding_size": 4,
    "scoring_states": 3,
    "base_depth": 4,
    "first_latent_size": 3,
    "second_latent_size": 2,
    "reward_repeats": 2,
    "initial_trials": 1,
    "initial_model_steps": 4,
    "rounds": 3,
    "model_steps": 2,
    "model_trials": 2,
    "policy_trials": 2,
    "picture_filters": 4,
    "picture_features": 4,
    "threads": 1,
}
"""Values that make an experiment one of seconds, for those of its fields that are there and may have them."""

ODD: list[Any] = [
    None, True, 0, -1, 1, 5, 0.5, -0.5, 2**31, 2**63, -(2**63), 10**400, 1e308, 1e-308, math.nan, math.inf, "", "x",
    "\x1b[31mred", "caf\udce9", "$\\frac{$", [], {}, [[]], [1, [2]], {"a": None}, "9" * 1000,
]  # fmt: skip


SMALL_HORIZON = 20


def small(name: str) -> Experiment:
    """A named experiment, made small as far as its own checks allow."""
    experiment = make_experiment(name)
    fields = {**field_types(Experiment), **field_types(type(experiment.algorithm))}
    shorter: dict[str, Any] = {"family_options": dict(experiment.family_options) | {"horizon": SMALL_HORIZON}}
    if "episode_steps" in fields:  # the same number
        shorter["episode_steps"] = SMALL_HORIZON
    smaller = [{field: value} for field, value in SMALL.items() if field in fields]
    for _ in range(2):  # some values fit only after others
        for changes in (shorter, *smaller):
            try:
                changed = override(experiment, changes)
                validate(changed, family_of(changed))
            except NacreError:
                continue
            experiment = changed
    return experiment


def random_configurations(experiment: Experiment, generator: np.random.Generator, n: int) -> Counter[str]:
    """Sets random fields to odd values, or to other ones of their kind. Each is refused in a sentence, or is valid and
    can be planned, written and read."""
    outcomes: Counter[str] = Counter()
    fields = [*field_types(Experiment), *field_types(type(experiment.algorithm))]
    for _ in range(n):
        chosen = generator.choice(fields, generator.integers(1, 4), replace=False).tolist()
        changes = {field: _value(experiment, field, generator) for field in chosen}

        def check(changes: dict[str, Any] = changes) -> None:
            changed = override(experiment, changes)
            plan(changed)
            if from_json(json.loads(json.dumps(to_json(changed)))) != changed:
                raise AssertionError("the experiment is another after it was written and read")

        ended = outcome(check)
        if ended == "FAILED":
            print(f"... with {changes!r} in {experiment.name}")
        outcomes[ended] += 1
    return outcomes


def _value(experiment: Experiment, field: str, generator: np.random.Generator) -> Any:
    """Something odd, or a number of another size than the field has."""
    before = getattr(experiment if hasattr(experiment, field) else experiment.algorithm, field)
    if type(before) not in (int, float) or generator.integers(2):
        return ODD[generator.integers(len(ODD))]
    scaled = before * 10 ** generator.uniform(-3, 3)
    return round(scaled) if isinstance(before, int) else float(scaled)


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


def damaged_run_files(run: Path, generator: np.random.Generator, n: int) -> Counter[str]:
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
    check_memory(experiment, available=1e9)  # as `nacre resume` does it with the memory that there is
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


def damaged_configuration_files(run: Path, generator: np.random.Generator, n: int) -> Counter[str]:
    """Writes the configuration of a run as somebody might: with odd values, cut off, with a bit flipped, as TOML, as a
    part. Each is refused in a sentence, or is an experiment that can be planned."""
    outcomes: Counter[str] = Counter()
    base, _ = read_run(run)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(n):
            content = to_json(base)
            for _ in range(generator.integers(1, 4)):
                _change_value(content, generator)
            suffix = ("json", "toml")[generator.integers(2)]
            path = Path(folder) / f"{number}.{suffix}"
            path.write_text(json.dumps(content) if suffix == "json" else _toml(content), errors="surrogateescape")
            if generator.integers(4) == 0:
                (_flip, _cut, _empty)[generator.integers(3)](path, generator)
            outcomes[outcome(lambda path=path: _read_and_plan(path, base if generator.integers(2) else None))] += 1
    return outcomes


def _read_and_plan(path: Path, base: Experiment | None) -> None:
    read = read_configuration(path, base)
    read.validate(read.experiment)
    plan(read.experiment)


def _toml(content: dict[str, Any]) -> str:
    """TOML of JSON values, as far as it has them: it knows no null, and what is in lists is written as in JSON."""
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    lines = [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in content.items() if key not in tables]
    for name, table in tables.items():
        lines += [
            f"[{json.dumps(name)}]",
            *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items()),
        ]
    return "\n".join(line for line in lines if not line.endswith("= null"))


ORIGINAL = Path(__file__).parent / "old_run"


def damaged_original_files(run: Path, generator: np.random.Generator, n: int) -> Counter[str]:
    """Damages a file of a run of the original PEARL code, `.pth` or its configuration, and imports it.

    It is refused, or makes a run that can be read. A changed number cannot be noticed: such files have no checksums.
    """
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(n):
            copy, imported = Path(folder) / str(number), Path(folder) / f"{number}-imported"
            shutil.copytree(ORIGINAL / ("zip", "legacy")[generator.integers(2)], copy)
            files = sorted(copy.iterdir())
            path = files[generator.integers(len(files))]
            kinds: list[Callable[[Path, np.random.Generator], None]] = [_flip, _cut, _empty, _swap]
            kinds += [_change_json] * 8 * (path.suffix == ".json")
            kinds[generator.integers(len(kinds))](path, generator)
            outcomes[outcome(lambda copy=copy, imported=imported: read_run(import_old_run(copy, out=imported)))] += 1
            shutil.rmtree(copy)
            shutil.rmtree(imported, ignore_errors=True)
    return outcomes


def _swap(path: Path, generator: np.random.Generator) -> None:
    """Writes a stretch of the file over another one: opcodes and lengths where they do not belong."""
    content = bytearray(path.read_bytes())
    length = int(generator.integers(1, 64))
    source, target = generator.integers(len(content), size=2).tolist()
    content[target : target + length] = content[source : source + length]
    path.write_bytes(content)


WORDS = [
    "", "x", "-1", "0", "2", "1e400", "nan", "9" * 5000, "a" * 5000, "../..", "/dev/zero", "/dev/null", "caf\udce9",
    "\x1b[2J", "$x$", "a=b,c", "best", "latest", "none", "place:10+2", "time:200,opposite", "time:-1", "place:nan",
    "0.5,-1; 0.2,0.3", "1," * 3000, "train", "--seed", "--out", "--help", "--tasks", "--shift", "--checkpoint",
    "--config",
]  # fmt: skip
"""What people type, and worse."""


def hostile_words(run: Path, generator: np.random.Generator, n: int) -> Counter[str]:
    """Gives commands odd words. Each ends with a sentence, or does what it should; nothing is trained."""
    outcomes: Counter[str] = Counter()
    experiment, _ = read_run(run)
    fields = [*field_types(Experiment), *field_types(type(experiment.algorithm))]
    flags = [f"--{field.replace('_', '-')}" for field in fields]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        copy = str(shutil.copytree(run, "run"))
        begins: list[list[str]] = [
            ["train", experiment.name, "--dry-run"], ["train", "--dry-run", "--config", f"{copy}/experiment.json"],
            ["resume"], ["resume", copy, "--iterations", "1"], ["evaluate"], ["evaluate", copy, "--trials"],
            ["evaluate", copy, "--tasks"], ["report"], ["compare"], ["import"], ["repair"], ["list"], ["--import"], [],
        ]  # fmt: skip
        for _ in range(n):
            begin = begins[generator.integers(len(begins))]
            pool = [*WORDS, *flags] if begin[:1] == ["train"] else WORDS
            words = [*begin, *(pool[generator.integers(len(pool))] for _ in range(generator.integers(1, 4)))]
            ended = _said(words)
            if ended == "FAILED":
                print(f"... nacre {' '.join(words)[:500]!r}")
            outcomes[ended] += 1
    return outcomes


def _said(words: list[str]) -> str:
    """How a command of nacre ended: with exit code 0, or with 2 and a message that is short."""
    said, code = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        try:
            cli.main(words)
        except SystemExit as end:
            code = end.code
        except Exception:
            traceback.print_exc()
            code = 1
    if code == 0:
        return "accepted"
    if code == 2 and len(said.getvalue()) < 20_000 and "\x1b[2J" not in said.getvalue():
        return "refused"
    print(f"it ended with {code}: {said.getvalue()[-2000:]}")
    return "FAILED"


INPUTS: dict[str, Callable[[Path, np.random.Generator, int], Counter[str]]] = {
    "files of a run": damaged_run_files,
    "configuration files": damaged_configuration_files,
    "files of the original code": damaged_original_files,
    "words of the command line": hostile_words,
}
"""Kinds of damaged or hostile input: each is given a complete run to copy from."""


def attack(name: str, seed: int, inputs: int, configurations: int, kills: int) -> bool:
    """Attacks an experiment and prints figures. Returns whether it stood."""
    generator, experiment, figures = np.random.default_rng(seed), small(name), {}
    figures["configurations"] = random_configurations(experiment, generator, configurations)
    with tempfile.TemporaryDirectory() as folder:
        storm = Storm(experiment, Path(folder) / "storm") if inputs or kills else None
        if storm is not None:
            figures |= {kind: attacker(storm.run, generator, inputs) for kind, attacker in INPUTS.items()}
            figures["kills"] = _kills(storm, generator, kills)
    for what, outcomes in figures.items():
        print(f"{name}, {what}: {', '.join(f'{count} {word}' for word, count in sorted(outcomes.items())) or 'none'}")
    return not any(outcomes["FAILED"] for outcomes in figures.values())


def _kills(storm: Storm, generator: np.random.Generator, n: int) -> Counter[str]:
    """At least so many kills of all commands in turn."""
    outcomes: Counter[str] = Counter()
    number = 0
    while outcomes["kills"] < n and not outcomes["FAILED"]:
        command = list(COMMANDS)[number % len(COMMANDS)]
        ended = storm.attack(command, generator, str(number))
        outcomes["kills"] += ended.kills
        outcomes["equal" if ended.failure is None else "FAILED"] += 1
        if ended.failure is not None:
            print(f"nacre {command} after {ended.kills} kills: {ended.failure}")
        number += 1
    return outcomes


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT")
    for flag, default in (("inputs", 25), ("configurations", 100), ("kills", 0), ("seed", 0)):
        parser.add_argument(f"--{flag}", type=int, default=default, metavar="N")
    options = parser.parse_args(arguments)
    serve()
    names = options.experiments or list(named_experiments())
    stood = [attack(name, options.seed, options.inputs, options.configurations, options.kills) for name in names]
    print(f"{sum(stood)} of {len(stood)} experiments stood")
    if not all(stood):
        sys.exit(1)


if __name__ == "__main__":
    main()
