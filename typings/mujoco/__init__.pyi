# MuJoCo's Python package is compiled and has no type information: to pyright everything in it is Any.
from typing import Any

def __getattr__(name: str) -> Any: ...
