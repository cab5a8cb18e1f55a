"""Marks for tests of what needs an extra that is not always installed."""

import importlib.util

import pytest

NEEDS_METAWORLD = pytest.mark.skipif(
    importlib.util.find_spec("metaworld") is None, reason="the extra metaworld is not installed"
)
NEEDS_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra cluster is not installed")
NEEDS_WANDB = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra wandb is not installed")
