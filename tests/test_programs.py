"""Compiled programs are forgotten before a process reaches the number of memory maps that Linux allows it."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import nacre
from nacre import NacreError, runtime

pytestmark = pytest.mark.skipif(runtime.maps_used() == 0, reason="only Linux says how many memory maps there are")


@pytest.fixture(autouse=True)
def nothing_was_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_kept", 0)


def compiled() -> jax.stages.Wrapped:
    """A program that was called."""
    program = jax.jit(lambda number: number + 1)
    program(jnp.float32(1))
    assert program._cache_size() == 1
    return program


def test_the_limit_is_that_of_the_system() -> None:
    allowed = runtime.maps_allowed()
    assert allowed is not None
    assert 10 < runtime.maps_used() < allowed


def test_few_programs_are_kept(tiny_run: Path) -> None:
    program = compiled()
    nacre.load(tiny_run)
    assert program._cache_size() == 1


def test_old_programs_make_room(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their maps are gone, and what is used again is compiled again."""
    begun = runtime.maps_used()
    programs = [compiled() for _ in range(20)]
    full = runtime.maps_used()
    assert full > begun + 20
    monkeypatch.setattr(runtime, "maps_allowed", lambda: 2 * full)
    nacre.load(tiny_run)
    assert {program._cache_size() for program in programs} == {0}
    assert runtime.maps_used() <= full - 20
    assert programs[0](jnp.float32(1)) == 2

    # what else has taken half of the maps does not have them forgotten at each call
    monkeypatch.setattr(runtime, "_kept", 0)
    monkeypatch.setattr(runtime, "maps_allowed", lambda: int(1.5 * runtime.maps_used()))
    for expected in (0, 1):
        program = compiled()
        nacre.load(tiny_run)
        assert program._cache_size() == expected


def test_maps_that_programs_have_not_taken(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA would end the process without a sentence."""
    monkeypatch.setattr(runtime, "maps_allowed", runtime.maps_used)
    with pytest.raises(
        NacreError, match=r"^this process has \d+ of the \d+ memory maps .*: begin in a new process, or"
    ):
        nacre.load(tiny_run)
