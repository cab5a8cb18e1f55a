"""progress.csv, TensorBoard, the terminal and the run folder."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.console
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from written import read_events

import nacre.run_folder
from nacre.agents.pearl.config import PearlConfig
from nacre.errors import NacreError
from nacre.experiments import make_experiment, to_json
from nacre.logs import Console, ProgressLog, TensorBoard, read_progress_csv, tensorboard_tag
from nacre.run_folder import create_run_folder, default_run_folder, read_run, rewrite_experiment, versions
from nacre.tasks.family import TaskSplit

ROW = {"Epoch": 0.0, "(Previous) Eval Time (s)": 0.1 + 0.2, "Q, quoted": -1e-300}


# progress.csv


def test_rows_come_back_exactly(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path)
    values = [1 / 3, float("nan"), float("inf"), -0.0]
    for epoch, value in enumerate(values):
        log.append({"Epoch": float(epoch), "Q, quoted": np.float64(value)})
    columns = read_progress_csv(tmp_path / "progress.csv")
    assert list(columns) == ["Epoch", "Q, quoted"]
    assert columns["Epoch"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert columns["Q, quoted"].tobytes() == np.array(values).tobytes()
    assert (tmp_path / "progress.csv").read_text().splitlines()[:2] == ['Epoch,"Q, quoted"', f"0.0,{1 / 3!r}"]


def test_a_file_keeps_its_columns(tmp_path: Path) -> None:
    ProgressLog(tmp_path).append(ROW)
    log = ProgressLog(tmp_path)  # as after a restart, perhaps by a later version
    log.append({"a column of later versions": 7.0, **dict(reversed(ROW.items()))})
    with pytest.raises(NacreError, match=r"progress.csv has columns that this run does not write: 'Epoch'; another"):
        log.append({"epoch": 1.0} | {key: value for key, value in ROW.items() if key != "Epoch"})
    columns = read_progress_csv(tmp_path / "progress.csv")
    assert {column: values.tolist() for column, values in columns.items()} == {k: [v, v] for k, v in ROW.items()}


def test_truncate_drops_later_and_partial_rows(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    log = ProgressLog(tmp_path)
    for epoch in range(5):
        log.append({"Epoch": float(epoch)})
    content = path.read_bytes()
    for partial in (b"", b"5", b"5.0,"):
        path.write_bytes(content + partial)
        resumed = ProgressLog(tmp_path)
        resumed.truncate(3)
        assert read_progress_csv(path)["Epoch"].tolist() == [0, 1, 2]
        resumed.append({"Epoch": 3.0})
        assert read_progress_csv(path)["Epoch"].tolist() == [0, 1, 2, 3]
    with pytest.raises(NacreError, match=r"progress.csv is damaged: it has 4 complete rows of 5"):
        ProgressLog(tmp_path).truncate(5)


@pytest.mark.parametrize("content", [None, b"", b"Epo", b"Epoch\n", b"Epoch\n0\n1"])
def test_truncate_to_nothing(tmp_path: Path, content: bytes | None) -> None:
    """A run killed before its first row was complete begins its file anew, with whatever columns."""
    if content is not None:
        (tmp_path / "progress.csv").write_bytes(content)
    log = ProgressLog(tmp_path)
    log.truncate(0)
    log.append({"other": 1.0})
    assert (tmp_path / "progress.csv").read_bytes() == b"other\n1.0\n"


def test_reading_a_damaged_csv(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    with pytest.raises(NacreError, match=r"cannot read .*progress.csv: No such file"):
        read_progress_csv(path)
    for content, line in (
        (b"a,b\n1,2\n3\n", 3),
        (b"a,b\n1,x\n", 2),
        (b"a,b\n1,2,3\n", 2),
        (b'a,b\n1,2\n3,"4\n5,6\n', 3),
        (b"a,b\n1," + b"2" * 200_000 + b"\n", 2),  # more than the csv module reads
    ):
        path.write_bytes(content)
        with pytest.raises(NacreError, match=f"line {line}, is damaged: 2 numbers were expected"):
            read_progress_csv(path)
    path.write_bytes(b"a,b\n1,2\n3,-1e308\n")
    with pytest.raises(NacreError, match=r"line 3, is damaged: 'b' is -1e\+308; allowed: at most 1e\+100 in magnitude"):
        read_progress_csv(path)
    path.write_bytes(b"a\n\xff\n")
    with pytest.raises(NacreError, match="is damaged: it is not text"):
        read_progress_csv(path)
    path.write_bytes(b"a,b\n1,2\n3,")
    assert read_progress_csv(path)["b"].tolist() == [2.0]
    path.write_bytes(b"")
    assert read_progress_csv(path) == {}


@pytest.mark.parametrize("header", [b"", b"a,,b", b"a, ,b", b"a,b,a", b'a,"b', b'"a"b,c'])
def test_a_damaged_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "progress.csv"
    path.write_bytes(header + b"\n1,2,3\n")
    for use in (read_progress_csv, lambda path: ProgressLog(path.parent)):
        with pytest.raises(NacreError, match=r"progress.csv, line 1, is damaged: names of columns were expected"):
            use(path)
    assert path.read_bytes() == header + b"\n1,2,3\n"


def test_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "progress.csv").symlink_to("/dev/full")
    log = ProgressLog.__new__(ProgressLog)  # reading /dev/full never ends
    log._path, log._columns = tmp_path / "progress.csv", ["Epoch"]
    with pytest.raises(NacreError, match=r"cannot write .*progress.csv: No space left on device"):
        log.append({"Epoch": 1.0})


WRITER = """
import sys
from pathlib import Path
from nacre.logs import ProgressLog

log = ProgressLog(Path(sys.argv[1]))
for epoch in range(100_000):
    log.append({"Epoch": epoch} | {f"column {i}": epoch / 7 for i in range(2000)})
    print(epoch, flush=True)
"""


def test_killed_while_writing(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    for attempt in range(2):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        with subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "0\n"
            time.sleep(generator.uniform(0.0, 0.1))
            writer.send_signal(signal.SIGKILL)
            announced = int(["0", *writer.stdout.read().split()][-1])
        log = ProgressLog(folder)
        log.truncate(announced + 1)
        columns = read_progress_csv(folder / "progress.csv")
        assert columns["Epoch"].tolist() == list(range(announced + 1))
        assert np.array_equal(columns["column 1999"], columns["Epoch"] / 7)


# TensorBoard


@pytest.mark.parametrize(
    ("column", "tag"),
    [
        ("Q Predictions Mean", "Q_Predictions/Mean"),
        ("Policy log std Min", "Policy_log_std/Min"),
        ("AverageReturn_all_test_tasks", "return/AverageReturn_all_test_tasks"),
        ("AverageSuccess_test_episode_1", "success/AverageSuccess_test_episode_1"),
        ("(Previous) Eval Time (s)", "time/Previous_Eval_Time_s"),
        ("Z variance train", "belief/Z_variance_train"),
        ("KL Loss", "belief/KL_Loss"),
        ("QF Loss", "loss/QF_Loss"),
        ("Number of env steps total", "count/Number_of_env_steps_total"),
        ("Epoch", "count/Epoch"),
        ("Memory (MiB)", "other/Memory_MiB"),
        ("mixture/weight of part 1", "mixture/weight_of_part_1"),
    ],
)
def test_tensorboard_tags(column: str, tag: str) -> None:
    assert tensorboard_tag(column, PearlConfig.tensorboard_groups) == tag


def test_tensorboard_groups_of_an_algorithm() -> None:
    assert tensorboard_tag("KL Loss") == "loss/KL_Loss"
    assert tensorboard_tag("Z variance train") == "other/Z_variance_train"
    assert tensorboard_tag("Wake Loss", {"Wake .*": "dreams"}) == "dreams/Wake_Loss"


def test_tensorboard_events(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    board = TensorBoard(tmp_path / "first", groups={"Epoch": "own"})
    board.write(0, {"QF Loss": 2.0, "Epoch": 0.0})
    board.write(1, {"QF Loss": 1.0, "Epoch": 1.0})
    board.close()
    scalars = [
        (event.step, value.tag, value.simple_value)
        for event in read_events(tmp_path / "first")
        for value in event.summary.value
    ]
    assert scalars == [
        (0, "loss/QF_Loss", 2.0),
        (0, "own/Epoch", 0.0),
        (1, "loss/QF_Loss", 1.0),
        (1, "own/Epoch", 1.0),
    ]
    (tmp_path / "resumed").mkdir()
    resumed = TensorBoard(tmp_path / "resumed", first_step=1)
    resumed.close()
    starts = [event.step for event in read_events(tmp_path / "resumed") if event.HasField("session_log")]
    assert starts == [1]


def test_tensorboard_has_the_hyperparameters(tmp_path: Path) -> None:
    configuration = to_json(make_experiment("pearl/point-robot", family_options={"horizon": 30}, threads=None))
    TensorBoard(tmp_path, configuration=configuration).close()
    data = [
        HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in read_events(tmp_path)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    ]
    found = {name: value for entry in data for name, value in entry.session_start_info.hparams.items()}
    assert found["seed"].number_value == 0
    assert found["algorithm.kind"].string_value == "pearl"
    assert found["algorithm.kl_weight"].number_value == pytest.approx(0.1)
    assert found["algorithm.probabilistic_context"].bool_value
    assert found["family_options.horizon"].number_value == 30
    assert found["threads"].string_value == "None"
    measures = [measure.name.tag for entry in data for measure in entry.experiment.metric_infos]
    assert measures == ["return/AverageReturn_all_test_tasks"]


def test_tensorboard_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = TensorBoard(tmp_path)

    def full(_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(EventsWriter, "flush", full)
    with pytest.raises(NacreError, match=r"cannot write events in .*: No space left on device"):
        board.write(0, {"Epoch": 0.0})
    monkeypatch.undo()
    board.close()
    with pytest.raises(NacreError, match=r"cannot write events in .*/nowhere: No such file or directory"):
        TensorBoard(tmp_path / "nowhere")


# The terminal


def run_console(is_terminal: bool, width: int = 150) -> str:
    output = io.StringIO()
    console = rich.console.Console(file=output, force_terminal=is_terminal, width=width, highlight=False)
    with Console(12, complete=10, console=console) as reporter:
        reporter.message("going on from [iteration_000010]")
        for value in (-45.25, -44.0):
            reporter.phase("collect")
            reporter.advance(400)
            reporter.phase("update", 2000)
            for _ in range(4):
                reporter.advance(500)
            reporter.phase("evaluate")
            reporter.advance(100)
            reporter.iteration({"AverageReturn_all_test_tasks": value})
    return output.getvalue()


def test_plain_lines_if_there_is_no_terminal() -> None:
    first, *lines = run_console(is_terminal=False).splitlines()
    assert first == "going on from [iteration_000010]"
    assert len(lines) == 2
    number = r"[\d.e+]+"
    assert re.fullmatch(
        rf"iteration 11/12 · test return -45\.2 · {number} env steps/s · {number} gradient steps/s · under 0 s left",
        lines[0],
    )
    assert lines[1].startswith("iteration 12/12 · test return -44.0 · ")


def draw(reporter: Console, console: rich.console.Console) -> list[str]:
    """The lines of the live bar, as wide as they would be on the terminal."""
    with console.capture() as capture:
        console.print(reporter._bars.get_renderable())
    return re.sub(r"\x1b\[[\d;]*m", "", capture.get()).splitlines()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_live_bar_fits_into_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    console = rich.console.Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False)
    reporter = Console(5000, complete=1000, console=console)  # not entered: no thread draws by itself
    rate = 60.0
    for _ in range(2):
        for name, total, steps in (("collect", None, 120_000), ("reconstruction", 200_000, 180_000)):
            reporter.phase(name, total)
            reporter.advance(steps)
            now += rate
        reporter.iteration({"AverageReturn_all_test_tasks": -1234.5, "AverageSuccess_all_test_tasks": 0.25})
    reporter.phase("reconstruction", 200_000, done=20_000)
    reporter.stopping()
    lines = draw(reporter, console)
    assert max(map(len, lines)) <= width
    whole, part, note = lines
    assert whole.startswith("iteration 1003/5000 ")
    assert whole.rstrip().endswith(" 133 h 16 min left")
    assert part.startswith("reconstruction ")
    assert part.rstrip().endswith(" 20000/200000")
    assert note.strip() == "stopping at the next safe point, and saving (once more: at once)"
    assert "…" not in "".join(lines)


def test_a_line_per_iteration_stays_above_the_live_bar() -> None:
    for width in (80, 150):
        output = run_console(is_terminal=True, width=width)
        assert "\x1b[" in output
        stays = re.findall(r"iteration (1[12])/12 · test return (-4[45]\.\d) · ", output)
        assert stays == [("11", "-45.2"), ("12", "-44.0")]
        assert "100/?" in output  # the phase before had a total
        assert "0 s left" in output


def test_what_a_signal_shows(capfd: pytest.CaptureFixture[str]) -> None:
    output = io.StringIO()
    with Console(2, console=rich.console.Console(file=output, force_terminal=True, width=80)) as reporter:
        reporter.phase("update", 2000, done=500)
        reporter.stopping()
    assert "500/2000" in output.getvalue()
    assert "stopping at the next safe point" in output.getvalue()
    with Console(2, console=rich.console.Console(file=io.StringIO())) as reporter:
        reporter.stopping()
    assert capfd.readouterr().err.startswith("stopping at the next safe point")


def test_rates_are_over_all_phases_of_a_kind_and_time_left_without_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    output = io.StringIO()
    with Console(100, complete=40, console=rich.console.Console(file=output, width=150)) as reporter:
        for compilation in (140.0, 0.0, 0.0):
            for _ in range(2):
                reporter.phase("collect")
                now += 1.0
                reporter.advance(250)
                reporter.phase("model", 20)
                now += 1.0 + compilation / 2
                reporter.advance(20)
                reporter.phase("policy", 30)
                now += 4.0
                reporter.advance(30)
            reporter.phase("evaluate")
            now += 60.0
            reporter.advance(10_000)
            reporter.iteration({"AverageReturn_all_test_tasks": 1.0, "AverageSuccess_all_test_tasks": 0.5})
    assert output.getvalue().splitlines() == [
        "iteration 41/100 · test return 1.0 · success 50% · 250 env steps/s · 0.667 gradient steps/s · "
        "under 3 h 28 min left",
        "iteration 42/100 · test return 1.0 · success 50% · 250 env steps/s · 10 gradient steps/s · 1 h 09 min left",
        "iteration 43/100 · test return 1.0 · success 50% · 250 env steps/s · 10 gradient steps/s · 1 h 08 min left",
    ]


# The run folder

EXPERIMENT = make_experiment("pearl/cheetah-vel", train_tasks=3, test_tasks=2)
SPLIT = TaskSplit(train=np.array([[0.1 + 0.2], [1 / 3], [1e-300]]), test=np.array([[2.0], [-0.0]]))


def test_run_folder_round_trip(tmp_path: Path) -> None:
    run = create_run_folder(tmp_path / "runs" / "one", EXPERIMENT, SPLIT)
    assert run == tmp_path / "runs" / "one"
    experiment, split = read_run(run)
    assert experiment == EXPERIMENT
    for name in ("train", "test"):
        found, expected = getattr(split, name), getattr(SPLIT, name)
        assert (found.dtype, found.shape, found.tobytes()) == (np.float64, expected.shape, expected.tobytes())
    content = json.loads((run / "experiment.json").read_text())
    assert content["format"] == 2
    assert content["tasks"]["parameters"] == ["target_velocity"]
    assert content["versions"] == versions()
    variant = json.loads((run / "variant.json").read_text())
    assert variant["seed"] == 0
    assert variant["algorithm"]["kl_weight"] == 0.1
    assert list(variant) == sorted(variant)


def test_rewrite_experiment(tmp_path: Path) -> None:
    create_run_folder(tmp_path, EXPERIMENT, SPLIT)
    before = json.loads((tmp_path / "experiment.json").read_text())
    extended = make_experiment("pearl/cheetah-vel", train_tasks=3, test_tasks=2, iterations=700)
    rewrite_experiment(tmp_path, extended)
    experiment, split = read_run(tmp_path)
    assert experiment == extended
    assert np.array_equal(split.train, SPLIT.train)
    before["experiment"]["iterations"] = 700
    after = json.loads((tmp_path / "experiment.json").read_text())
    assert after.pop("checksum") != before.pop("checksum")
    assert after == before
    assert json.loads((tmp_path / "variant.json").read_text())["iterations"] == 700


def test_default_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = create_run_folder(None, EXPERIMENT, SPLIT)
    assert run.parent == Path("runs/pearl/cheetah-vel")
    assert re.fullmatch(r"seed-0-\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d", run.name)
    assert default_run_folder(EXPERIMENT).parent == run.parent
    assert read_run(run)[0] == EXPERIMENT


def test_existing_folders(tmp_path: Path) -> None:
    create_run_folder(tmp_path, EXPERIMENT, SPLIT)  # an empty folder is welcome
    with pytest.raises(NacreError, match=f"holds a run already: .*: nacre resume {tmp_path}"):
        create_run_folder(tmp_path, EXPERIMENT, SPLIT)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(NacreError, match="is not empty: choose another folder"):
        create_run_folder(tmp_path / "other", EXPERIMENT, SPLIT)
    for file in ("thesis.tex", "thesis.tex/below"):
        with pytest.raises(NacreError, match=r"cannot make the folder .*: (File exists|Not a directory)"):
            create_run_folder(tmp_path / "other" / file, EXPERIMENT, SPLIT)


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(code: int) -> Any:
        def refused(*_: Any, **__: Any) -> None:
            raise OSError(code, os.strerror(code))

        return refused

    monkeypatch.setattr(Path, "mkdir", refuse(errno.EROFS))
    with pytest.raises(NacreError, match=r"cannot make the folder .*/run: Read-only file system"):
        create_run_folder(tmp_path / "run", EXPERIMENT, SPLIT)
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    with pytest.raises(NacreError, match=r"cannot write .*: No space left on device"):
        create_run_folder(tmp_path / "run", EXPERIMENT, SPLIT)


def test_what_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(NacreError, match="nowhere does not exist"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(NacreError, match=r"is not a run folder: it has no experiment.json"):
        read_run(tmp_path)
    (tmp_path / "experiment.json").mkdir()
    with pytest.raises(NacreError, match="cannot read"):
        read_run(tmp_path)


def damaged(content: str, change: str) -> str | bytes:
    values = json.loads(content)
    match change:
        case "truncated":
            return content[:-20]
        case "not text":
            return content.encode() + b"\xff"
        case "list":
            return "[]"
        case "no format":
            del values["format"]
        case "newer":
            values["format"] = 3
        case "no experiment":
            del values["experiment"]
        case "field":
            values["experiment"]["algorithm"]["discount"] = "high"
        case "no tasks":
            del values["tasks"]["test"]
        case "words":
            values["tasks"]["train"][1] = ["fast"]
        case "fewer tasks":
            values["tasks"]["train"].pop()
        case "infinite":
            values["tasks"]["train"][0] = [float("inf")]
        case "ragged":
            values["tasks"]["train"][0] = [1, 2]
    return json.dumps(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("truncated", r"experiment.json is damaged: .*line \d+ column \d+"),
        ("not text", r"experiment.json is not text"),
        ("list", "is not an experiment of nacre: it names no format"),
        ("no format", "is not an experiment of nacre: it names no format"),
        ("newer", "has format 3; this version of nacre reads up to 2"),
        ("no experiment", r"experiment.json is damaged: experiment is None"),
        ("field", r"experiment.json is damaged: algorithm.discount is 'high'"),
        ("no tasks", r"tasks.test is missing"),
        ("words", r"tasks.train is missing or holds something else than numbers"),
        ("fewer tasks", r"tasks.train has 2 tasks; allowed: 3"),
        ("infinite", r"must be finite"),
        ("ragged", r"A task of cheetah-vel is a row of numbers"),
    ],
)
def test_damaged_experiment(tmp_path: Path, change: str, message: str) -> None:
    path = create_run_folder(tmp_path, EXPERIMENT, SPLIT) / "experiment.json"
    content = damaged(path.read_text(), change)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(NacreError, match=message):
        read_run(tmp_path)


def test_versions_never_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = versions()
    assert found["jax"]
    assert found["nacre"]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["device"] == "cpu"  # as tests/conftest.py asks for

    def fail(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("nothing here")

    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(Path, "read_text", fail)
    assert versions()["git_commit"] is None
    monkeypatch.setattr(nacre.run_folder, "__file__", str(tmp_path / "lib" / "nacre" / "run_folder.py"))
    assert versions()["git_commit"] is None


def test_git_commit_of_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    git("tag", "v1")
    monkeypatch.setattr(nacre.run_folder, "__file__", str(tmp_path / "src" / "nacre" / "run_folder.py"))
    assert versions()["git_commit"] == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("two")
    assert versions()["git_commit"] == git("rev-parse", "HEAD") + "-dirty"
