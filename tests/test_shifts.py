"""What a shift may say, how it is written, and which families can have it."""

import dataclasses
import subprocess
import sys

import pytest

from nacre.errors import NacreError
from nacre.tasks import make_family
from nacre.tasks.shifts import Shift, check_shift, parse_shift, read_shift, shift_to_json

PUBLISHED = {
    "place:10+2": Shift("place", 10, 2),
    "place:20+1": Shift("place", 20, 1),
    "place:1000000+2": Shift("place", 1e6, 2),
    "place:10+2,opposite": Shift("place", 10, 2, draw="opposite"),
    "time:200": Shift("time", 200),
    "time:1000000": Shift("time", 1e6),
}
"""The change triggers of every published configuration."""

OTHERS = {
    "time:50+100,probability=0.1": Shift("time", 50, 100, 0.1),
    "time:0.5+0.25,probability=0.001,opposite": Shift("time", 0.5, 0.25, 0.001, "opposite"),
}


@pytest.mark.parametrize(("text", "shift"), (PUBLISHED | OTHERS).items())
def test_text_and_object_are_read_back(text: str, shift: Shift) -> None:
    assert parse_shift(text) == shift
    assert str(shift) == text
    assert read_shift(text) == read_shift(shift) == read_shift(shift_to_json(shift)) == shift


def test_spaces_and_an_order_of_ones_own() -> None:
    assert parse_shift(" time : 5 + 3 , opposite , probability = 0.5 ") == Shift("time", 5, 3, 0.5, "opposite")
    assert parse_shift("place:1e1") == Shift("place", 10)


def test_none() -> None:
    assert parse_shift("none") is read_shift("none") is read_shift(None) is shift_to_json(None) is None


def test_it_is_a_value() -> None:
    assert len({Shift("time", 5), Shift("time", 5.0), Shift("time", 5, 0)}) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "shift is ''; allowed: none, or TRIGGER"),
        ("place", "shift is 'place'; allowed: none, or TRIGGER"),
        ("place:far", "'far' is no number"),
        ("place:1+much", "'much' is no number"),
        ("velocity:3", "shift.trigger is 'velocity'; allowed: 'place' or 'time'"),
        ("place:0", "shift.first is 0; allowed: more than 0 and at most 1000000"),
        ("place:-3", "shift.first is -3; allowed: more than 0"),
        ("time:2000000", "shift.first is 2e\\+06; allowed: more than 0 and at most 1000000"),
        ("place:nan", "shift.first is nan; allowed: a finite number"),
        ("place:3+-1", "shift.spread is -1; allowed: at least 0"),
        ("time:3,probability=0", "shift.probability is 0; allowed: more than 0 and at most 1"),
        ("time:3,probability=1.5", "shift.probability is 1.5; allowed: more than 0 and at most 1"),
        ("time:3,probability=often", "'often' is no number"),
        ("place:3,probability=0.5", "shift.probability is 0.5; allowed by place: 1"),
        ("time:3,opposed", "of which 'opposed' is not understood; allowed: none, or TRIGGER"),
        ("time:3,opposite,opposite", "of which 'opposite' is not understood"),
    ],
)
def test_impossible_texts(text: str, message: str) -> None:
    with pytest.raises(NacreError, match=message):
        parse_shift(text)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "shift is 3; allowed: none, or TRIGGER.*or an object"),
        ({"trigger": "time"}, "the field 'shift.first' is missing"),
        ({"trigger": "time", "first": 3, "frist": 3}, "unknown field 'shift.frist': did you mean first"),
        ({"trigger": "time", "first": "3"}, "shift.first is '3'; allowed: a number"),
        ({"trigger": "time", "first": True}, "shift.first is True; allowed: a number"),
        ({"trigger": "time", "first": 10**400}, "shift.first is .*; allowed: a finite number"),
        ({"trigger": ["time"], "first": 3}, "shift.trigger is .'time'.; allowed: 'place' or 'time'"),
        ({"trigger": 3, "first": 3}, "shift.trigger is 3; allowed: 'place' or 'time'"),
        ({"trigger": "time", "first": 3, "draw": "other"}, "shift.draw is 'other'; allowed: 'tasks' or 'opposite'"),
    ],
)
def test_impossible_objects(value: object, message: str) -> None:
    with pytest.raises(NacreError, match=message):
        read_shift(value)


def test_words() -> None:
    assert Shift("place", 10, 2).in_words() == (
        "the task changes to another one within an episode, at each further 10 to 12 along x, forward or backward"
    )
    assert Shift("time", 200, probability=0.1, draw="opposite").in_words() == (
        "the task changes to the opposite one within an episode, each time after more than 200 steps, with a "
        "probability of 0.1 in each step"
    )


@pytest.mark.parametrize("name", ["point-robot", "cheetah-vel", "cheetah-dir", "ant-goal", "walker-rand-params"])
@pytest.mark.parametrize("shift", [Shift("place", 10, 2), Shift("time", 20)], ids=str)
def test_families_whose_tasks_can_change(name: str, shift: Shift) -> None:
    check_shift(make_family(name), shift)


def test_only_few_tasks_have_opposites() -> None:
    shift = Shift("place", 10, draw="opposite")
    check_shift(make_family("cheetah-dir"), shift)
    check_shift(make_family("ant-dir"), shift)
    with pytest.raises(NacreError, match="shift is 'place:10,opposite'; allowed for cheetah-vel: without"):
        check_shift(make_family("cheetah-vel"), shift)


def test_a_family_without_a_place() -> None:
    from probes import Clock

    check_shift(Clock(5), Shift("time", 3))
    with pytest.raises(NacreError, match="allowed for clock: changes by time, as the family has no place"):
        check_shift(Clock(5), Shift("place", 3))


def test_reading_a_shift_loads_neither_jax_nor_mujoco() -> None:
    code = (
        "import sys; from nacre.tasks.shifts import Shift, parse_shift; parse_shift('time:3'); "
        "print([name for name in ('jax', 'mujoco') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_field_is_said_in_text() -> None:
    """A field that is added to a shift has to get its place in the text."""
    assert [field.name for field in dataclasses.fields(Shift)] == ["trigger", "first", "spread", "probability", "draw"]
