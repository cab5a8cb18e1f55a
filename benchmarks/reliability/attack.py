"""How much nacre stands: kills, damaged and hostile input, and random configurations, in many processes at once.

    python benchmarks/reliability/attack.py [EXPERIMENT ...] [--workers N] [--minutes M] [--experiments N]
        [--kills N] [--inputs N] [--configurations N] [--seed N] [--out FILE.json]

It attacks any experiment that is registered, made small; without names `--experiments` of them, those that differ most
first. It ends when all is done or the time is over; then the commands that were killed last go on to their ends, which
takes a minute or two. Its figures are in FILE.json at every moment. If there is such a file, it goes on from there,
with other random numbers. It ends with 1 if anything was neither refused in a sentence nor right.

Programs are compiled quickly, as in the tests, so that most of the time is left for kills. Those of a
command that nobody kills are compiled anew. They are kept in a folder of this process's own, from where the killed ones
read them: so what is compared is also what was compiled with what was read.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
os.environ["MPLBACKEND"] = "agg"
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import numpy as np
from attackers import INPUTS, random_configurations, small  # pyright: ignore[reportMissingImports]
from killers import COMMANDS, OutOfTime, Storm, call, serve  # pyright: ignore[reportMissingImports]

from nacre.errors import NacreError
from nacre.experiments import Experiment, family_of, named_experiments
from nacre.files import parse_json, write_atomically
from nacre.run_folder import versions

KILLS, CONFIGURATIONS = "kills", "configurations"
ROOT = Path(__file__).resolve().parents[2]
BATCH = 100
"""Inputs or configurations that one process is given."""
LIMIT = 900.0
"""Seconds that a batch may take."""
MOST_FAILURES = 100
"""That are told in full."""


@dataclass
class Target:
    """An experiment that is attacked."""

    name: str
    experiment: Experiment
    making: threading.Lock = field(default_factory=threading.Lock)
    storm: Storm | None = None
    failed: bool = False
    figures: Counter[str] = field(default_factory=Counter)


def targets_of(names: list[str], most: int) -> tuple[list[Target], dict[str, str]]:
    """The experiments to attack, and why others are not: a package or a driver is not there."""
    found, passed_over = [], {}
    for name in names or by_difference(list(named_experiments())):
        if len(found) == most and not names:
            break
        try:
            found.append(Target(name, small(name)))
        except NacreError as error:
            passed_over[name] = str(error)
    return found, passed_over


def by_difference(names: list[str]) -> list[str]:
    """Names of experiments, of each algorithm in turn; first those with a kind of world that the algorithm did not have
    yet."""
    seen: Counter[Any] = Counter()
    rank = {}
    for name in names:
        experiment = named_experiments()[name].experiment
        with contextlib.suppress(NacreError):
            kind = type(experiment.algorithm), type(family_of(experiment)).__module__
            algorithm = type(experiment.algorithm)
            rank[name] = (seen[kind], seen[algorithm, seen[kind]])
            seen[algorithm, seen[kind]] += 1
            seen[kind] += 1
    return sorted(names, key=lambda name: rank.get(name, (len(names), 0)))


class Attack:
    """What is done so far, and what comes next. Several threads ask."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options, self.folder = options, folder
        self.targets, self.passed_over = targets_of(options.experiments, options.most)
        self.goals = {KILLS: options.kills, "inputs": options.inputs, CONFIGURATIONS: options.configurations}
        self.before = _read(options.out)
        self.figures: dict[str, Counter[str]] = {}
        self.failures: list[dict[str, Any]] = list(self.before.get("failures", []))
        for what, counts in self.before.get("figures", {}).items():
            self.figures[what] = Counter(counts)
        self.jobs = int(self.before.get("jobs", 0))
        self.versions = versions()
        self.begun = time.monotonic()
        self._told = self.begun
        self._under_way: Counter[str] = Counter()
        self._lock = threading.Lock()

    def is_late(self) -> bool:
        """Whether what is under way should come to its end."""
        return time.monotonic() - self.begun > 60 * self.options.minutes

    def work(self, worker: int) -> None:
        """Does jobs until none is left."""
        cpus = sorted(os.sched_getaffinity(0))
        cpu = cpus[worker % len(cpus)]
        while (job := self._next()) is not None:
            number, what = job
            generator = np.random.default_rng([self.options.seed, number])
            try:
                target = self._target(what, number)
                if what == KILLS:
                    self._kill(target, number, generator, cpu)
                else:
                    self._batch(what, target, number, generator, cpu)
            except OutOfTime:
                pass
            except Exception as error:  # of this program: it is told, and the others go on
                self._add(what, Counter(FAILED=1), f"job {number}", f"{type(error).__name__}: {error}")
            with self._lock:
                self._under_way[what] -= 1
                self._write()

    def _next(self) -> tuple[int, str] | None:
        """A number, and what is farthest behind its goal."""
        with self._lock:
            if self.is_late():
                return None
            ahead = {what: self._done(what) / goal for what, goal in self.goals.items() if goal}
            left = {what: share for what, share in ahead.items() if share < 1}
            if not left:
                return None
            what = min(left, key=left.__getitem__)
            self._under_way[what] += 1
            self.jobs += 1
            return self.jobs, what

    def _done(self, what: str) -> float:
        """How much of something is done, or will be when what is under way has ended."""
        each = 3 if what == KILLS else BATCH
        return self._count(what) + each * self._under_way[what]

    def _count(self, what: str) -> int:
        if what == KILLS:
            return sum(self.figures.get(f"nacre {command}", Counter())[KILLS] for command in COMMANDS)
        names = INPUTS if what == "inputs" else [CONFIGURATIONS]
        return sum(sum(self.figures.get(name, Counter()).values()) for name in names)

    def _target(self, what: str, number: int) -> Target:
        """The experiment that a job is about: in turn, and for all but configurations only if its storm is made."""
        with self._lock:
            free = [target for target in self.targets if not target.failed]
            if not free:
                raise RuntimeError("no experiment can be attacked")
            if what == CONFIGURATIONS:
                return free[number % len(free)]
            ready = [target for target in free if target.storm is not None or not target.making.locked()]
            target = min(ready or free, key=lambda target: target.figures[what])
            target.figures[what] += 1
        return target

    def _storm(self, target: Target, cpu: int) -> Storm:
        with target.making:
            if target.failed:  # it was told by who tried to make it
                raise OutOfTime
            if target.storm is None:
                name = target.name.replace("/", "-")
                try:
                    target.storm = Storm(target.experiment, self.folder / name, cpu, self.is_late)
                except Exception:
                    target.failed = True
                    raise
            return target.storm

    def _kill(self, target: Target, number: int, generator: np.random.Generator, cpu: int) -> None:
        storm = self._storm(target, cpu)
        command = str(generator.choice(list(COMMANDS), p=list(COMMANDS.values())))
        outcome = storm.attack(command, generator, f"{number}", cpu)
        ended = "equal" if outcome.failure is None else "FAILED"
        figures = Counter({KILLS: outcome.kills, ended: 1})
        self._add(f"nacre {command}", figures, target.name, outcome.failure)
        with self._lock:
            target.figures["killed"] += outcome.kills

    def _batch(self, what: str, target: Target, number: int, generator: np.random.Generator, cpu: int) -> None:
        kind = what if what == CONFIGURATIONS else list(INPUTS)[generator.integers(len(INPUTS))]
        subject = target.experiment if what == CONFIGURATIONS else self._storm(target, cpu).run
        log = self.folder / f"batch-{number}.log"
        end = call(_batch, (kind, subject, [self.options.seed, number], BATCH), log, LIMIT, cpu)
        said = log.read_text(errors="replace")
        if end.code != 0 or not isinstance(end.result, dict):
            how = "hung" if end.code is None else f"ended with {end.code}"
            self._add(kind, Counter(FAILED=1), target.name, f"the process of batch {number} {how}: {said[-3000:]}")
            return
        outcomes = Counter(end.result)
        self._add(kind, outcomes, target.name, said[-3000:] if outcomes["FAILED"] else None)
        log.unlink()

    def _add(self, what: str, outcomes: Counter[str], name: str, failure: str | None) -> None:
        with self._lock:
            self.figures.setdefault(what, Counter()).update(outcomes)
            if failure is not None:
                print(f"FAILED: {what} of {name}: {failure}", flush=True)
                for folder in (ROOT, Path(sys.base_prefix)):  # they say nothing elsewhere
                    failure = failure.replace(f"{folder}/", "")
                if len(self.failures) < MOST_FAILURES:
                    self.failures.append({"what": what, "of": name, "seed": self.options.seed, "said": failure[-3000:]})

    def _write(self) -> None:
        if time.monotonic() > self._told + 30:
            self._told = time.monotonic()
            done = ", ".join(f"{self._count(what)} {what} of {goal}" for what, goal in self.goals.items())
            print(f"{(self._told - self.begun) / 60:.1f} minutes: {done}", flush=True)
        if self.options.out is None:
            return
        figures = {what: dict(sorted(counts.items())) for what, counts in sorted(self.figures.items())}
        killed = self.before.get("experiments", {}) | {}
        for target in self.targets:
            killed[target.name] = self.before.get("experiments", {}).get(target.name, 0) + target.figures["killed"]
        content = {
            "minutes": round(self.before.get("minutes", 0) + (time.monotonic() - self.begun) / 60, 1),
            "workers": self.options.workers,
            "jobs": self.jobs,
            "figures": figures,
            "experiments": dict(sorted(killed.items())),
            "passed_over": self.passed_over,
            "failures": self.failures,
            "versions": self.versions,
        }
        write_atomically(self.options.out, (json.dumps(content, indent=2) + "\n").encode())

    def lines(self) -> Iterator[str]:
        """The figures in words."""
        for what, counts in sorted(self.figures.items()):
            yield f"{what}: {', '.join(f'{count} {word}' for word, count in sorted(counts.items()))}"
        for what, goal in self.goals.items():
            yield f"{self._count(what)} {what} of {goal}"
        for name, reason in self.passed_over.items():
            yield f"{name} was passed over: {reason}"


def _batch(now: Any, kind: str, subject: Any, seed: list[int], n: int) -> dict[str, int]:
    """In a process of its own."""
    generator = np.random.default_rng(seed)
    attacker = random_configurations if kind == CONFIGURATIONS else INPUTS[kind]
    return dict(attacker(subject, generator, n))


def _read(path: Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    content = parse_json(path.read_text())
    print(f"going on from the figures in {path}", flush=True)
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M")
    parser.add_argument("--experiments", dest="most", type=int, default=26, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    for flag, goal in (("kills", 1000), ("inputs", 10_000), ("configurations", 10_000), ("seed", 0)):
        parser.add_argument(f"--{flag}", type=int, default=goal, metavar="N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nacre-attack-") as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder) / "compiled")
        serve()
        attack = Attack(options, Path(folder))
        with ThreadPoolExecutor(options.workers) as pool:
            for ended in [pool.submit(attack.work, worker) for worker in range(options.workers)]:
                ended.result()
        print(*attack.lines(), sep="\n")
    if any(counts["FAILED"] for counts in attack.figures.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
