"""The command line, with a real run of two tiny iterations."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nacre
from nacre import cli
from nacre.agents.pearl.config import PearlConfig
from nacre.errors import Interrupted
from nacre.evaluation import Evaluation, Protocol, TrialResult
from nacre.experiments import Experiment, make_experiment, named_experiments
from nacre.listing import listing

NACRE = (sys.executable, "-m", "nacre.cli")


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "progress.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_list_names_every_experiment(capsys):
    cli.main(["list"])
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if "/" in line.partition(" ")[0]}
    assert lines.keys() == named_experiments().keys()
    assert "100 + 30" in lines["pearl/cheetah-vel"]
    for name, steps in (  # as in the published table of budgets
        ("cheetah-vel", "2.700"),
        ("cheetah-dir", "5.004"),
        ("ant-dir", "2.504"),
        ("ant-random-dir", "2.504"),
        ("ant-goal", "2.800"),
        ("ant-goal-long", "10.000"),
        ("humanoid-dir", "2.700"),
        ("walker-rand-params", "2.580"),
        ("hopper-rand-params", "2.580"),
    ):
        assert f" {steps} " in lines[f"pearl/{name}"]
    assert lines["pearl/cheetah-vel"].endswith("  a half-cheetah runs at a hidden speed between 0 and 3 m/s")


@pytest.mark.parametrize(("width", "per_experiment"), [(60, 4), (80, 2.1), (100, 2), (160, 1.1)])
def test_list_on_a_terminal(width, per_experiment):
    lines = listing(width)
    assert max(map(len, lines)) <= width
    first = lines.index("pearl:") + 1
    last = lines.index("", first)
    assert last - first <= per_experiment * len(named_experiments())
    text = " ".join(" ".join(lines).split())
    for name, (_, description) in named_experiments().items():
        assert any(line == name or line.startswith(f"{name} ") for line in lines)
        if width < 100:
            assert description in text
    for family in nacre.tasks.list_families():
        assert f"{family}," in text or f"{family}." in text


def experiments_in(lines):
    return [line.split()[0] for line in lines if "/" in line.split(" ")[0]]


@pytest.mark.parametrize(
    ("words", "experiments", "families"),
    [
        (
            ["cemrl", "point"],
            ["cemrl/point-robot", "cemrl/point-robot-quick"],
            "point-robot, sparse",
        ),
        (
            ["ant-goal"],
            ["pearl/ant-goal", "pearl/ant-goal-long", "cemrl/ant-goal", "oracle/ant-goal"],
            "ant-goal, ant-goal-s",
        ),
        (["sawyer", "reach"], ["meld/reacher"], "sawyer-reach-sparse, sawyer-reacher."),
    ],
)
def test_list_of_less(words, experiments, families, capsys):
    cli.main(["list", *words])
    lines = capsys.readouterr().out.splitlines()
    found = experiments_in(lines)
    assert set(experiments) <= set(found)
    assert all(any(words[-1] in name for name in (each, make_experiment(each).family)) for each in found)
    assert any(line.startswith(f"Task families: {families}") for line in lines)
    assert not any(line.startswith("Fewer of them") for line in lines)
    assert not any(line.endswith("no named experiment") for line in lines)


def test_the_name_of_an_algorithm_means_that_algorithm(capsys):
    """Another one's experiments may be called after it."""
    cli.main(["list", "cemrl"])
    assert {name.partition("/")[0] for name in experiments_in(capsys.readouterr().out.splitlines())} == {"cemrl"}
    with pytest.raises(SystemExit) as end:
        cli.main(["list", "cemrl", "zebra"])
    assert end.value.code == 2
    assert "words are 'cemrl zebra', and no experiment" in capsys.readouterr().err


def test_shell_completion(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--tyro-print-completion", "bash"])
    assert not end.value.code
    program = capsys.readouterr().out + "\nCOMP_WORDS=(nacre ev); COMP_CWORD=1; _tyro_nacre; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["evaluate"]


def test_tasks_of_many_parameters_are_shown_by_their_numbers(capsys):
    protocol = Protocol("custom", trials=1, steps=0, episodes=2, exploration_episodes=1)
    results = tuple((TrialResult(returns=(1.0, number), lengths=(3, 3), successes=None),) for number in (5.0, 7.0))
    for parameters, first in ((("x", "y"), "0.125"), (tuple(f"p{i}" for i in range(65)), "0")):
        tasks = np.full((2, len(parameters)), 0.125)
        cli._print_evaluation(Evaluation(protocol, tasks, results), parameters)
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        header = next(i for i, words in enumerate(lines) if "episode" in words and "1" in words)
        row, mean = lines[header + 1], lines[-1]
        assert lines[header][0] == (parameters[0] if len(parameters) == 2 else "task")
        assert row[0] == first
        assert row[-2:] == ["1.00", "5.00"]
        assert mean == ["mean", "1.00", "6.00"]


@pytest.mark.parametrize("arguments", [[], ["list"], ["--help"], ["train", "--help"], ["--version"]])
def test_answers_at_once_without_jax(arguments):
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('jax' in sys.modules, 'mujoco' in sys.modules))\n"
        f"from nacre.cli import main; main({arguments})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("False ")


def test_version(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"nacre {nacre.__version__}\n"


def test_every_field_is_a_flag_with_help(capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["train", "pearl/sparse-point-robot", "--help"])
    assert exit_info.value.code == 0
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    experiment = make_experiment("pearl/sparse-point-robot")
    for owner in (experiment, experiment.algorithm):
        for field in dataclasses.fields(owner):
            if field.name != "algorithm":
                assert f"--{field.name.replace('_', '-')}" in words
    assert "Transitions per task in a gradient step, drawn" not in words
    assert "Transitions per task in a gradient step." in words  # batch_size's docstring
    # What is set most often comes first.
    assert words.index("--out") < words.index("--seed ") < words.index("--iterations") < words.index("--name")
    assert words.index("--name") < words.index("--latent-size")
    # The defaults are those of the experiment that was named.
    assert "Weight of the KL divergence, summed over the tasks of the meta-batch. (default: 1.0)" in words


@pytest.mark.parametrize(
    "arguments",
    [
        "train pearl/cheetah-dir --seed 3 --kl-weight 2 --no-probabilistic-context --device cpu --precision bfloat16",
        "train --seed 3 --kl-weight 2 --no-probabilistic-context pearl/cheetah-dir --device cpu --precision=bfloat16",
    ],
)
def test_flags_override_the_named_experiment(arguments):
    command = cli._parse(arguments.split())
    assert isinstance(command, cli.Train)
    assert command.experiment == nacre.make_experiment(
        "pearl/cheetah-dir", seed=3, kl_weight=2.0, probabilistic_context=False, device="cpu", precision="bfloat16"
    )
    assert command.out is None


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("pearl/cheetah-dir --seed 1", "pearl/cheetah-dir"),
        ("--seed 1 pearl/cheetah-dir", "pearl/cheetah-dir"),
        ("--name pearl/ant-dir pearl/cheetah-dir", "pearl/cheetah-dir"),
        ("--no-probabilistic-context pearl/cheetah-dir", "pearl/cheetah-dir"),
        ("--name=pearl/ant-dir --out runs/x --no-probabilistic-context pearl/cheetah-dir", "pearl/cheetah-dir"),
        ("--sizes 1 2 pearl/cheetha-dir", "pearl/cheetha-dir"),
        ("cheetah", "cheetah"),
        ("--out runs/x --seed 3", None),
        ("--help", None),
    ],
)
def test_the_name_is_found_before_any_flag_is_known(arguments, name):
    assert cli._find_experiment(arguments.split()) == name


def test_named_experiment_without_flags_is_itself():
    for name, (experiment, _) in named_experiments().items():
        command = cli._parse(["train", name])
        assert isinstance(command, cli.Train)
        assert command.experiment == experiment


def test_train_writes_a_run(tiny_run, tiny):
    experiment = json.loads((tiny_run / "experiment.json").read_text())["experiment"]
    flat = experiment | experiment["algorithm"]
    assert {field: flat[field] for field in tiny} == tiny
    assert [float(row["Number of train steps total"]) for row in rows(tiny_run)] == [4, 8]


def test_old_configuration_file(tmp_path, capsys, tiny):
    old = {
        "env_name": "point-robot",
        "n_train_tasks": 3,
        "n_eval_tasks": 2,
        "latent_size": 2,
        "net_size": 8,
        "env_params": {"n_tasks": 5, "randomize_tasks": True},
        "algo_params": {
            "meta_batch": 2,
            "num_initial_steps": 40,
            "num_tasks_sample": 2,
            "num_steps_prior": 20,
            "num_extra_rl_steps_posterior": 20,
            "num_train_steps_per_itr": 4,
            "num_evals": 2,
            "num_steps_per_eval": 60,
            "batch_size": 8,
            "embedding_batch_size": 8,
            "embedding_mini_batch_size": 8,
            "max_path_length": 20,
            "reward_scale": 100,
        },
        "util_params": {"gpu_id": 3},
    }
    (tmp_path / "old.json").write_text(json.dumps(old))
    out = tmp_path / "run"
    flags = ["--iterations=2", "--encoder-hidden-size=8", "--update-chunk=2", "--threads=1"]
    cli.main(["train", "--config", str(tmp_path / "old.json"), *flags, "--out", str(out)])
    assert "util_params.gpu_id has no meaning any more" in capsys.readouterr().out
    found = json.loads((out / "experiment.json").read_text())["experiment"]
    assert (found["name"], found["iterations"], found["task_list"]) == ("pearl/point-robot", 2, "published")
    expected = nacre.make_experiment("pearl/point-robot", **tiny).algorithm
    assert nacre.experiments.from_json(found).algorithm == expected
    assert len(rows(out)) == 2


def test_resume_extends_a_run(run_copy, capsys):
    before = rows(run_copy)
    assert len(before) == 2
    cli.main(["resume", str(run_copy), "--iterations", "3"])
    after = rows(run_copy)
    assert after[:2] == before
    assert len(after) == 3
    assert f"nacre evaluate {run_copy}" in capsys.readouterr().out


def test_evaluate_prints_each_episode_and_writes_json(run_copy, capsys):
    cli.main(["evaluate", str(run_copy)])
    out = capsys.readouterr().out
    [path] = (run_copy / "evaluations").iterdir()
    assert str(path) in out
    result = json.loads(path.read_text())
    tasks = json.loads((run_copy / "experiment.json").read_text())["tasks"]
    assert [task["parameters"] for task in result["tasks"]] == tasks["test"]
    assert result["protocol"]["name"] == "deterministic-context"
    assert (result["checkpoint"], result["task_set"], result["seed"]) == ("iteration_000002", "test", 0)
    assert result["task_parameters"] == ["goal_x", "goal_y"]
    assert result["versions"]["nacre"] == nacre.__version__
    for task in result["tasks"]:
        assert len(task["trials"]) == 2
        for trial in task["trials"]:
            assert trial["lengths"] == [20, 20, 20]
            assert all(value < 0 for value in trial["returns"])  # minus a distance
        means = np.mean([trial["returns"] for trial in task["trials"]], axis=0)
        goal = " ".join(f"{value:.3f}" for value in task["parameters"])
        assert f"{goal} " + " ".join(f"{value:.2f}" for value in means) in " ".join(out.split())
    whole = " ".join(f"{value:.2f}" for value in result["mean_return_by_episode"])
    assert f"mean {whole}" in " ".join(out.split())


def test_quiet(run_copy, capsys, tmp_path):
    """Nothing is printed but what is wrong."""
    cli.main(["resume", str(run_copy), "--iterations", "3", "--quiet"])
    out = tmp_path / "result.json"
    cli.main(["evaluate", str(run_copy), "--quiet", "--video", "--tasks", "0,1", "--episodes", "2", "--out", str(out)])
    assert capsys.readouterr() == ("", "")
    assert (out.with_suffix("") / "task-00.mp4").exists()
    with pytest.raises(SystemExit):
        cli.main(["train", "pearl/point-robot", "--quiet", "--out", str(run_copy)])
    out, err = capsys.readouterr()
    assert (out, "holds a run already" in err) == ("", True)


def test_evaluate_own_tasks_and_protocol(run_copy, tmp_path, capsys):
    (tmp_path / "tasks.json").write_text("[[0.5, -1], [0.2, 0.3]]")
    evaluate = ["evaluate", str(run_copy), "--trials", "1", "--episodes", "4", "--checkpoint", "best", "--seed", "7"]
    cli.main([*evaluate, "--tasks", "0.5,-1; 0.2,0.3"])
    cli.main([*evaluate, "--tasks", str(tmp_path / "tasks.json")])
    cli.main([*evaluate, "--tasks", str(tmp_path / "tasks.json"), "--stochastic"])
    names = [f"best-own-custom{number}.json" for number in ("", "-2", "-3")]
    results = [json.loads((run_copy / "evaluations" / name).read_text()) for name in names]
    assert results[0] == results[1]  # the same tasks and seed; the second did not replace the first
    assert [result["protocol"]["deterministic"] for result in results] == [True, True, False]
    assert results[0]["tasks"] != results[2]["tasks"]
    for result in results:
        assert (result["protocol"]["name"], result["task_set"], result["checkpoint"]) == ("custom", "own", "best")
        assert [task["parameters"] for task in result["tasks"]] == [[0.5, -1.0], [0.2, 0.3]]
        assert [len(trial["returns"]) for task in result["tasks"] for trial in task["trials"]] == [4, 4]
    assert "episode 4" in capsys.readouterr().out


def test_evaluate_train_tasks_from_python(run_copy):
    evaluation = nacre.evaluate(run_copy, "train", trials=1)
    assert evaluation.protocol.name == "deterministic-context"
    assert evaluation.returns_by_episode.shape == (3, 3)
    again = nacre.evaluate(run_copy, np.array(evaluation.tasks), trials=1)
    np.testing.assert_array_equal(again.returns_by_episode, evaluation.returns_by_episode)


def test_evaluation_protocol_is_the_experiments_own(run_copy):
    evaluation = nacre.evaluate(run_copy)
    experiment = nacre.make_experiment("pearl/point-robot")
    assert evaluation.protocol == experiment.algorithm.protocol(nacre.make_family("point-robot").horizon)


def test_signals_end_with_their_code(monkeypatch, capsys):
    def interrupted(*_):
        raise Interrupted(Path("runs/first"), 15)

    def ctrl_c(*_):
        raise KeyboardInterrupt

    for action, code, message in ((interrupted, 143, "nacre resume runs/first\n"), (ctrl_c, 130, "")):
        monkeypatch.setattr(cli.Resume, "__call__", action)
        with pytest.raises(SystemExit) as exit_info:
            cli.main(["resume", "runs/first"])
        assert exit_info.value.code == code
        error = capsys.readouterr().err
        assert error.endswith(message)
        assert error.count("\n") <= 1


def test_programming_errors_keep_their_traceback(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(cli.List, "__call__", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["list"])


def test_reader_that_leaves_is_no_error():
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([*NACRE, "list"], stdout=write_end, stderr=subprocess.PIPE, timeout=30)
    os.close(write_end)
    assert done.returncode
    assert done.stderr == b""


def test_public_names():
    program = (
        "import sys, time\n"
        "start = time.perf_counter(); import nacre; seconds = time.perf_counter() - start\n"
        "assert not {'jax', 'mujoco', 'tyro', 'rich'} & set(sys.modules), sys.modules.keys()\n"
        "import gymnasium; assert 'nacre/HalfCheetahVel-v0' in gymnasium.registry\n"
        "values = [getattr(nacre, name) for name in nacre.__all__]\n"
        "import pkgutil, importlib\n"
        "for module in pkgutil.iter_modules(nacre.__path__, 'nacre.'): importlib.import_module(module.name)\n"
        "assert [getattr(nacre, name) for name in nacre.__all__] == values\n"
        "assert all(callable(value) for value in values)\n"
        "assert set(nacre.__all__) <= set(dir(nacre))\n"
        "print(seconds)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = nacre.trian


def test_experiment_fields_are_all_reachable_by_flags():
    names = [field.name for owner in (Experiment, PearlConfig) for field in dataclasses.fields(owner)]
    assert len(names) == len(set(names))  # flags have no prefix to tell two apart
