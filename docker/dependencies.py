"""Prints the requirements of pyproject.toml, one a line: `python dependencies.py [EXTRA...]`.

pip installs them only together with the package; in an image they are to be a layer below it.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
print(*project["dependencies"], sep="\n")
for extra in sys.argv[1:]:
    print(*project["optional-dependencies"][extra], sep="\n")
