"""How much a run stands: the attackers of `tests/attackers.py`, for hours and over every named experiment.

    python benchmarks/reliability/attack.py [EXPERIMENT ...] [--files N] [--configurations N] [--kills N] [--seed N]

Without figures of one's own: 1 000 damaged files, 1 000 configurations and 100 kills of each experiment. It prints one
line for each kind of attack, and ends with 1 if anything was not refused in a sentence and was not right either.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import attackers  # pyright: ignore[reportMissingImports]

LONG = {"--files": "1000", "--configurations": "1000", "--kills": "100"}

if __name__ == "__main__":
    given = sys.argv[1:]
    missing = {flag: value for flag, value in LONG.items() if not any(word.startswith(flag) for word in given)}
    attackers.main([*given, *(word for pair in missing.items() for word in pair)])
