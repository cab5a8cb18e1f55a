"""Whether a process grows: one that trains, resumes, evaluates, reports, loads and plays small experiments in turn.

    python benchmarks/reliability/soak.py [EXPERIMENT ...] [--minutes M] [--experiments N] [--out FILE]

After each experiment it writes a row to FILE.csv: resident memory, open files, threads and memory maps. At the end, or
at Ctrl-C or SIGTERM, it compares the second third of the time with the last one, says whether anything has grown, and
writes FILE.json. It ends with 1 if anything has.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "agg"

from attack import targets_of

import nacre
from nacre.experiments import Experiment
from nacre.files import write_atomically
from nacre.report import write_report
from nacre.run_folder import versions
from nacre.runtime import maps_used
from nacre.tasks.gymnasium import FamilyEnv

MAY_DIFFER = {"resident": 0.05, "files": 0.0, "threads": 0.0, "maps": 0.05}
"""What is measured, and by which share of itself its median may differ between two thirds of the time by chance."""
FEWEST_ROWS = 30
"""For a judgement."""


def use(experiment: Experiment, folder: Path) -> None:
    """Does with an experiment what people do."""
    run = nacre.train(experiment, folder / "run", quiet=True, on_iteration=lambda iteration: "stop")
    nacre.resume(run, quiet=True)
    nacre.train(experiment, folder / "seeds", seeds=2, quiet=True)
    nacre.evaluate(run)
    write_report([run])
    agent = nacre.load(run)
    with contextlib.closing(FamilyEnv(agent.family)) as environment:
        nacre.play(agent, environment, episodes=2)


def sample() -> dict[str, int]:
    """What the process holds now."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "resident": 1024 * int(status["VmRSS"].split()[0]),
        "files": len(os.listdir("/proc/self/fd")) - 1,  # one of them lists the others
        "threads": int(status["Threads"]),
        "maps": maps_used(),
    }


def judge(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For each quantity its medians in the second and in the last third of the time, and whether it has grown."""
    if len(rows) < FEWEST_ROWS:
        return {}
    end = rows[-1]["minutes"]
    thirds = [[row for row in rows if low * end <= 3 * row["minutes"] <= high * end] for low, high in ((1, 2), (2, 3))]
    judged = {}
    for quantity, share in MAY_DIFFER.items():
        middle, last = (statistics.median(row[quantity] for row in third) for third in thirds)
        highest = max(row[quantity] for row in rows)
        judged[quantity] = {"middle": middle, "last": last, "highest": highest, "grown": last > (1 + share) * middle}
    return judged


class Ended(Exception):
    """A signal asks for the end."""


def _end(number: int, frame: Any) -> None:
    raise Ended


def soak(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Uses experiments in turn until the time is over, and adds a row after each."""
    targets, passed_over = targets_of(options.experiments, options.most)
    for name, reason in passed_over.items():
        print(f"{name} is passed over: {reason}", flush=True)
    start = time.monotonic()
    with open(options.out.with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, ["minutes", "experiment", *MAY_DIFFER])
        writer.writeheader()
        number = 0
        while time.monotonic() - start < 60 * options.minutes:
            target = targets[number % len(targets)]
            with tempfile.TemporaryDirectory(prefix="nacre-soak-") as folder:
                use(target.experiment, Path(folder))
            minutes = round((time.monotonic() - start) / 60, 2)
            rows.append({"minutes": minutes, "experiment": target.name, **sample()})
            writer.writerow(rows[-1])
            file.flush()
            number += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT")
    parser.add_argument("--minutes", type=float, default=120.0, metavar="M")
    parser.add_argument("--experiments", dest="most", type=int, default=12, metavar="N")
    parser.add_argument("--out", type=Path, default=Path("soak"), metavar="FILE")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        soak(options, rows)
    except (Ended, nacre.Interrupted, KeyboardInterrupt):
        print("ended before its time", flush=True)
    judged = judge(rows)
    content = {
        "minutes": rows[-1]["minutes"] if rows else 0,
        "uses": len(rows),
        "experiments": sorted({row["experiment"] for row in rows}),
        "quantities": judged,
        "versions": versions(),
    }
    write_atomically(options.out.with_suffix(".json"), (json.dumps(content, indent=2) + "\n").encode())
    for quantity, found in judged.items():
        middle, last, highest = (f"{found[name]:,.0f}" for name in ("middle", "last", "highest"))
        says = "HAS GROWN" if found["grown"] else "has not grown"
        print(f"{quantity}: {middle} in the second third, {last} in the last, at most {highest}: {says}")
    if not judged:
        print(f"{len(rows)} uses are too few to say whether anything grows")
    if any(found["grown"] for found in judged.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
