"""How much a run with workers stands: workers that are killed and frozen, a node that is lost, and its own end.

    python benchmarks/reliability/workers.py [EXPERIMENT] [--iterations 4] [--workers 2] [--kills 20] [--frozen 2]

Trains the experiment three times: without workers; with workers, of which one that plays is sent SIGKILL again and
again, and then others SIGSTOP; and on a cluster of two raylets on this machine, of which one is stopped. Every
checkpoint and every segment of the journal has to be the same to the bit. Then the process that learns is killed, and
nothing of it may be left after two minutes. It prints a line for each, and ends with 1 if anything was otherwise. Other
flags, such as --train-tasks=10, are fields of the configuration that hold whole numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import nacre
from nacre.files import read_npz
from nacre.ray_cluster import import_ray
from nacre.workers import Workers


@contextlib.contextmanager
def told_of_workers(begin: Callable[[Workers], None]) -> Iterator[None]:
    """Calls `begin` with the workers of a run, in a thread, as soon as they play."""
    play = Workers.play

    def watched(self: Workers, plays: Any) -> Any:
        if not hasattr(self, "watched"):
            self.watched = threading.Thread(target=begin, args=(self,), daemon=True)  # pyright: ignore[reportAttributeAccessIssue]
            self.watched.start()  # pyright: ignore[reportAttributeAccessIssue]
        return play(self, plays)

    Workers.play = watched
    try:
        yield
    finally:
        Workers.play = play


class Attack:
    """Sends signals to workers that play, at random times, one that was not struck before each time."""

    def __init__(self, signals: list[signal.Signals], pause: float, seed: int):
        """`pause` is the longest time between two signals, in seconds."""
        self.left, self.struck = list(signals), []
        self._pause, self._random = pause, random.Random(seed)

    def __call__(self, workers: Workers) -> None:
        while self.left:
            time.sleep(self._random.uniform(0.0, self._pause))
            seats = [seat for seat in list(workers._seats) if seat.part is not None and seat.place is not None]
            new = [seat.place.process for seat in seats if seat.place and seat.place.process not in self.struck]
            if new:
                process = self._random.choice(new)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, self.left.pop(0))
                    self.struck.append(process)


def differences(run: Path, other: Path) -> list[str]:
    """The arrays in which two runs differ."""
    found = []
    names = sorted(str(path.relative_to(other)) for path in other.glob("*/*.npz"))
    if names != sorted(str(path.relative_to(run)) for path in run.glob("*/*.npz")):
        return ["the files"]
    for name in names:
        one, two = read_npz(run / name), read_npz(other / name)
        found += [
            f"{name}: {key}" for key in two.keys() - {"manifest", "run"} if not np.array_equal(one[key], two[key])
        ]
    return found


def processes_of(mark: str) -> list[str]:
    """The command lines of all processes that have this in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def said(what: str, faults: list[str]) -> int:
    print(f"== {what}: {'; '.join(faults[:5]) if faults else 'as it should be'}", flush=True)
    return len(faults)


def lose_a_node(experiment: Any, run: Path, workers: int) -> str:
    """Trains on a head without processors and two nodes, of which one is stopped while its worker plays."""
    import_ray()
    cluster = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    nodes = [cluster.add_node(num_cpus=workers) for _ in range(2)]
    lost = threading.Event()

    def stop(crew: Workers) -> None:
        while not all(seat.place for seat in crew._seats) or not any(seat.part is not None for seat in crew._seats):
            time.sleep(0.05)
        time.sleep(0.5)
        cluster.remove_node(nodes[0], allow_graceful=False)
        lost.set()

    try:
        with told_of_workers(stop):
            nacre.train(experiment, run, workers=2 * workers, ray_address=cluster.address, worker_timeout=60)
    finally:
        importlib.import_module("ray").shutdown()
        cluster.shutdown()
    return "" if lost.is_set() else "no node was stopped before the run was over"


def kill_the_learner(name: str, fields: dict[str, str], run: Path, workers: int) -> list[str]:
    """What is left two minutes after SIGKILL."""
    mark = f"nacre-reliability-{os.getpid()}"
    flags = [f"--{field}={value}" for field, value in fields.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "nacre", "train", name, "--out", str(run), "--workers", str(workers), *flags],
        env={**os.environ, "NACRE_MARK": mark},
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(run.glob("replay/*.npz")):
        time.sleep(0.05)
    process.kill()
    process.wait()
    until = time.monotonic() + 120
    while processes_of(mark) and time.monotonic() < until:
        time.sleep(0.2)
    return processes_of(mark)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="pearl/point-robot-quick")
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--frozen", type=int, default=2)
    parser.add_argument("--pause", type=float, default=4.0, help="seconds between two signals, at most")
    parser.add_argument("--seed", type=int, default=0)
    arguments, others = parser.parse_known_args()
    fields = dict(word.removeprefix("--").split("=", 1) for word in others)
    values = {name.replace("-", "_"): int(value) for name, value in fields.items()}
    experiment = nacre.make_experiment(arguments.experiment, iterations=arguments.iterations, **values)
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        alone = nacre.train(experiment, Path(folder) / "alone")
        attack = Attack(
            [signal.SIGKILL] * arguments.kills + [signal.SIGSTOP] * arguments.frozen, arguments.pause, arguments.seed
        )
        with told_of_workers(attack):
            run = nacre.train(experiment, Path(folder) / "attacked", workers=arguments.workers, worker_timeout=15)
        few = [f"{len(attack.left)} were not struck before the run was over"] if attack.left else []
        faults += said(f"{len(attack.struck)} workers killed or frozen", differences(run, alone) + few)
        missed = lose_a_node(experiment, Path(folder) / "node", 1)
        faults += said("a node lost", differences(Path(folder) / "node", alone) + ([missed] if missed else []))
        left = kill_the_learner(arguments.experiment, fields, Path(folder) / "killed", arguments.workers)
        faults += said("the learner killed", left)
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
