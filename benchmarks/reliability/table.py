"""Writes the tables of docs/reliability.md from results/reliability/: what `attack.py` and `soak.py` have found.

    python benchmarks/reliability/table.py [--check]

With --check it writes nothing, and ends with 1 if the page is out of date.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "reliability"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- Written by benchmarks/reliability/table.py: do not edit from here ... -->"
END = "<!-- ... to here. -->"
ENDS = {
    "equal": "ended as without kills",
    "refused": "refused in a sentence",
    "warned": "accepted with a warning",
    "accepted": "accepted, and right",
    "FAILED": "**failed**",
}
"""How what was attacked may have ended, in words."""
QUANTITIES = {"resident": "memory, MB", "files": "open files", "threads": "threads", "maps": "memory maps"}


def tables() -> str:
    """What stands between the two lines."""
    attacks, soaks = (
        [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob(pattern))]
        for pattern in ("attack*.json", "soak*.json")
    )
    judged = [soak for soak in soaks if soak["quantities"]]  # others were too short
    soak_lines = [line for soak in judged for line in _soak_lines(soak)] or ["", "No soak has come to its end yet."]
    return "\n".join(["", *_attack_lines(attacks), *soak_lines, ""])


def _attack_lines(attacks: Sequence[dict[str, Any]]) -> Iterator[str]:
    figures: dict[str, Counter[str]] = {}
    for attack in attacks:
        for what, counts in attack["figures"].items():
            figures.setdefault(what, Counter()).update(counts)
    yield "| attacked | how often | how it ended |"
    yield "|---|---:|---|"
    for what, counts in sorted(figures.items(), key=lambda item: ("kills" not in item[1], item[0])):
        is_command = "kills" in counts
        often = (
            f"{_number(counts['kills'])} kill{'s' * (counts['kills'] != 1)}"
            if is_command
            else _number(sum(counts.values()))
        )
        ended = ", ".join(f"{_number(counts[end])} {words}" for end, words in ENDS.items() if counts[end])
        yield f"| {f'`{what}`' if is_command else what} | {often} | {ended} |"
    kills = sum(counts["kills"] for counts in figures.values())
    inputs = sum(sum(counts.values()) for what, counts in figures.items() if "kills" not in counts)
    configurations = sum(figures.get("configurations", Counter()).values())
    killed = {name for attack in attacks for name, number in attack["experiments"].items() if number}
    yield ""
    more = f"{_number(inputs)} inputs and configurations"
    yield f"Together {_number(kills)} kills in {len(killed)} experiments, and {more}:"
    yield ""
    for attack in attacks:
        workers = attack["workers"]
        yield f"- {attack['minutes']} minutes in {workers} process{'es' * (workers != 1)}, {_machine(attack)}"
    if kills < 1000 or inputs - configurations < 10_000 or configurations < 10_000:
        yield ""
        yield "The aim is 1 000 kills, 10 000 inputs and 10 000 configurations. That has not been reached yet."


def _soak_lines(soak: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield (
        f"A process of {soak['minutes']:.0f} minutes, which used {len(soak['experiments'])} experiments "
        f"{_number(soak['uses'])} times in all, {_machine(soak)}:"
    )
    yield ""
    yield "| median of | second third | last third | highest | |"
    yield "|---|---:|---:|---:|---|"
    for quantity, words in QUANTITIES.items():
        found = soak["quantities"][quantity]
        scale = 1e6 if quantity == "resident" else 1
        middle, last, highest = (_number(round(found[name] / scale)) for name in ("middle", "last", "highest"))
        says = "**has grown**" if found["grown"] else "has not grown"
        yield f"| {words} | {middle} | {last} | {highest} | {says} |"


def _machine(found: dict[str, Any]) -> str:
    versions = found["versions"]
    return f"Python {versions['python']}, JAX {versions['jax']}, {versions['cpu']}"


def _number(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def main(arguments: Sequence[str] = ()) -> int:
    text = PAGE.read_text(encoding="utf-8")
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise SystemExit(f"{PAGE} has no place for the tables: the lines {BEGIN} and {END}")
    wanted = f"{before}{BEGIN}\n{tables()}\n{END}{after}"
    if "--check" in arguments:
        return int(wanted != text)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
