"""Learning curves of old code bases in `nacre compare`."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_report_pages import Content
from test_report_pages import read as read_page

from nacre import cli
from nacre.errors import NacreError
from nacre.original.curves import old_runs_in, read_old_curve
from nacre.report import parse_groups, write_comparison

PEARL = {
    "Z mean train": "0.5",
    "AverageReturn_all_train_tasks": "-1",
    "AverageReturn_all_test_tasks": "{0}",
    "Number of env steps total": "{1}",
    "Total Train Time (s)": "{2}",
    "Epoch": "{3}",
}
CEMRL = {
    "n_env_steps_total": "{1}",
    "QF1 Loss": "1.5",
    "test_eval_avg_reward_non_deterministic": "-99",
    "test_eval_avg_reward_deterministic": "{0}",
    "time_total": "{2}",
    "epoch": "{3}",
}
DMRLAD = {name.replace("QF1", "ZF1"): value for name, value in CEMRL.items()} | {"test_eval_success_rate": "0.25"}


def old_run(
    folder: Path, columns: dict[str, str], returns: tuple[float, ...], variant: dict[str, Any] | None = None
) -> Path:
    """A folder with progress.csv as rlkit's logger writes it, with Windows' ends of lines: 1000 steps and 1 hour for an
    iteration."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "progress.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for epoch, value in enumerate(returns):
            writer.writerow(
                [cell.format(value, 1000 * (epoch + 1), 3600 * (epoch + 1), epoch) for cell in columns.values()]
            )
    if variant is not None:
        (folder / "variant.json").write_text(json.dumps(variant))
    return folder


def point_robot(seed: int) -> dict[str, Any]:
    return {
        "env_name": "point-robot",
        "n_train_tasks": 3,
        "n_eval_tasks": 2,
        "env_params": {"n_tasks": 5},
        "algo_params": {"max_path_length": 20},
        "util_params": {"seed": seed},
    }


def cheetah(seed: int, **algo: Any) -> dict[str, Any]:
    return {"env_name": "cheetah-stationary-dir", "exp_name": f"run {seed}"} | {
        "env_params": {"n_train_tasks": 2, "n_eval_tasks": 2},
        "algo_params": {"encoding_mode": "transitionSharedY", "seed": seed, **algo},
    }


def test_what_an_old_run_tells(tmp_path: Path) -> None:
    pearl = read_old_curve(old_run(tmp_path / "pearl", PEARL, (-9, -3), point_robot(0)))
    assert (pearl.code_base, pearl.kind, pearl.has_one_episode) == ("PEARL", "point-robot of PEARL's own code", False)
    assert pearl.experiment is not None
    assert pearl.experiment.family == "point-robot"
    assert (pearl.steps.tolist(), pearl.returns.tolist(), pearl.seconds.tolist()) == (
        [1000, 2000],
        [-9, -3],
        [3600, 7200],
    )
    assert pearl.successes is None
    cemrl = read_old_curve(old_run(tmp_path / "cemrl", CEMRL, (100, 200), cheetah(0)))
    assert (cemrl.code_base, cemrl.returns.tolist(), cemrl.successes) == ("CEMRL", [100, 200], None)
    assert cemrl.protocol.startswith("of CEMRL's own code: 3 episode(s) on each of its test tasks, with deterministic")
    dmrlad = read_old_curve(old_run(tmp_path / "dmrlad", DMRLAD, (5,)) / "progress.csv")
    assert (dmrlad.code_base, dmrlad.kind, dmrlad.experiment) == ("DMRLAD", "a run of DMRLAD's own code", None)
    assert dmrlad.successes is not None
    assert dmrlad.successes.tolist() == [0.25]


def test_old_runs_beside_ours(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of old runs stands for all of them; runs that differ only in the seed are one group."""
    for seed in range(3):
        old_run(tmp_path / "output" / f"2019_06_0{seed + 1}", PEARL, (-9, -1 - seed, -2 - seed), point_robot(seed))
    page = tmp_path / "page.html"
    cli.main(["compare", str(tiny_run), str(tmp_path / "output"), "--out", str(page)])
    assert capsys.readouterr().out == f"Written to {page}\n"
    content: Content = read_page(page)
    rows = {name: rest for name, *rest in next(iter(content.tables.values()))}
    minus = "\N{MINUS SIGN}"
    assert rows["point-robot of PEARL's own code"] == [
        "3",
        "3 000".replace(" ", "\N{NARROW NO-BREAK SPACE}"),
        "not recorded",
        f"{minus}3.0 [{minus}4.0, {minus}2.0]",
        f"{minus}4.0 to {minus}2.0",
        "3.0",
    ]
    assert "runs of other code, with test tasks of their own" in content.words
    assert "meta-tested by different protocols" in content.words
    assert "Protocol of PEARL's own code: the last episode of a trial" in content.words.replace("\n", " ")


def test_a_page_of_old_runs_alone(tmp_path: Path) -> None:
    groups = {
        "CEMRL": [
            old_run(tmp_path / "one", CEMRL, (100, 200), cheetah(0)),
            old_run(tmp_path / "two", CEMRL, (5,), cheetah(0)),
        ],
        "DMRLAD": [old_run(tmp_path / "three", DMRLAD, (300, 400))],
    }
    content = read_page(write_comparison(groups, tmp_path / "page.html"))
    rows = {name: rest for name, *rest in next(iter(content.tables.values()))}
    assert rows["CEMRL"][1:4] == ["1 000".replace(" ", "\N{NARROW NO-BREAK SPACE}"), "52.5", "52.5"]
    assert "The seeds of CEMRL are of different length; all are cut to 1 iterations." in content.words
    assert "Nobody checked that DMRLAD are of the same task family" in content.words
    assert "Adaptation" in content.words
    pearl = {"PEARL": [old_run(tmp_path / "four", PEARL, (1, 2))]}
    assert "Adaptation" not in read_page(write_comparison(pearl, tmp_path / "page.html")).words


def test_old_runs_are_grouped(tiny_run: Path, tmp_path: Path) -> None:
    one = old_run(tmp_path / "one", CEMRL, (1,), cheetah(0))
    two = old_run(tmp_path / "two", CEMRL, (1,), cheetah(1))
    other = old_run(tmp_path / "other", CEMRL, (1,), cheetah(0, time_steps=4))
    alone = old_run(tmp_path / "alone", DMRLAD, (1,)) / "progress.csv"
    assert list(parse_groups([str(one), str(alone), str(tiny_run), str(other), f"mine={one}", str(two)]).items()) == [
        ("cheetah-stationary-dir of CEMRL's own code (one)", [one, two]),
        ("a run of DMRLAD's own code", [alone]),
        ("pearl/point-robot", [tiny_run]),
        ("cheetah-stationary-dir of CEMRL's own code (other)", [other]),
        ("mine", [one]),
    ]
    assert old_runs_in(tiny_run) == []
    assert old_runs_in(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no complete row"),
        ("epoch,n_env_steps_total,test_eval_avg_reward_deterministic\n", "has no complete row"),
        ("epoch,loss\n1,2\n", "is of no code base that is known: it has neither 'Number of env steps total'"),
        ("n_env_steps_total,test_eval_avg_reward_deterministic\n1,x\n", "line 2, is damaged: 2 numbers were expected"),
        ("n_env_steps_total,n_env_steps_total\n1,2\n", "line 1, is damaged"),
        ("\x00", "has no complete row"),
        (
            "Number of env steps total,AverageReturn_all_test_tasks,AverageReturn_test_episode_1\n1,2,3\n",
            r"is of a run of nacre; allowed: the folder of that run, with its experiment.json",
        ),
    ],
)
def test_damaged_curves(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "progress.csv").write_text(content)
    with pytest.raises(NacreError, match=message) as error:
        parse_groups([str(tmp_path)])
    assert str(error.value).startswith(str(tmp_path / "progress.csv"))


def test_groups_that_cannot_be(tiny_run: Path, tmp_path: Path) -> None:
    pearl = old_run(tmp_path / "pearl", PEARL, (1,), point_robot(0))
    cemrl = old_run(tmp_path / "cemrl", CEMRL, (1,), cheetah(0))
    for groups, message in (
        (
            {"a": [tiny_run, pearl]},
            "the group 'a' has .*, a run of nacre, and .*pearl, one of other code: a group is of",
        ),
        ({"a": [pearl, cemrl]}, r"cemrl is a run of another configuration than .*pearl$"),
        ({"a": [pearl, pearl]}, r"the group 'a' has .*pearl twice$"),
        ({"a": [tiny_run], "b": [cemrl]}, "cemrl is of the task family cheetah-dir, and .* of point-robot: returns of"),
    ):
        with pytest.raises(NacreError, match=message):
            write_comparison(groups, tmp_path / "page.html")
    (cemrl / "variant.json").write_text("[]")
    with pytest.raises(NacreError, match=r"variant.json is no configuration of an old run: it is not a JSON object"):
        read_old_curve(cemrl)
    shutil.rmtree(cemrl)
    with pytest.raises(NacreError, match="cemrl"):
        write_comparison({"a": [cemrl]}, tmp_path / "page.html")
