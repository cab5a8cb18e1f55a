"""Sweeps on a Ray cluster: of our own on this machine, with a node that is lost."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from extras import NEEDS_RAY
from test_sweeps import rows, runs_of, wait_until, write_spec

from nacre import cli
from nacre.errors import NacreError
from nacre.sweeps.cluster import Nodes, on_cluster

pytestmark = [
    NEEDS_RAY,
    pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning"),  # by Ray's own tool for clusters
]

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A Ray of our own with two CPUs, to which this process is connected."""
    from nacre.ray_cluster import connected

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
        with connected(None, cpus=2) as cluster:
            yield cluster.ray


def jobs() -> list[int]:
    """The processes of runs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"nacre.sweeps.job" in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def actors() -> list[int]:
    """The processes that have started them."""
    return [int(Path(f"/proc/{job}/stat").read_text().rpartition(")")[2].split()[1]) for job in jobs()]


def test_a_sweep_on_ray(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """A worker of Ray is killed on the way: its run saves, and goes on in another one."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.chdir(HERE)
    out = tmp_path / "out"
    killed: list[int] = []

    def kill() -> None:
        wait_until(lambda: any(rows(run) > 1 for run in runs_of(out)))
        killed.append(actors()[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    path = write_spec(tmp_path, iterations=150)
    cli.main(["--import", "random_learner", "sweep", str(path), "--out", str(out), "--ray-address", "auto"])
    killer.join()
    output = capfd.readouterr().out
    assert killed
    assert "its Ray worker or node was lost (" in output
    assert "2 finished" in output
    assert [rows(run) for run in runs_of(out)] == [150, 150]
    assert (out / "compare.html").exists()
    assert not jobs()


def test_ctrl_c_saves_runs_on_ray(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.chdir(HERE)
    out = tmp_path / "out"

    def interrupt() -> None:
        wait_until(lambda: any(rows(run) > 1 for run in runs_of(out)))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    path = write_spec(tmp_path, iterations=100_000)
    with pytest.raises(SystemExit) as end:
        cli.main(["--import", "random_learner", "sweep", str(path), "--out", str(out), "--ray-address", "auto"])
    assert end.value.code == 130
    assert "--ray-address auto" in capfd.readouterr().err
    assert all("Stopped and saved" in log.read_text() for log in (out / "logs").iterdir())
    assert not jobs()


def test_a_cluster_without_room(ray: Any) -> None:
    with (
        pytest.raises(NacreError, match=r"no node of .* has 64 cores and 1.0 GB of memory, as a run needs"),
        on_cluster("auto", 64, 1e9, None, False),
    ):
        pass
    with contextlib.closing(Nodes(ray, "it", 64, 1e9, 3, False)) as nodes:
        assert nodes.room() == 3
    with contextlib.closing(Nodes(ray, "it", 1, 1e9, None, False)) as nodes:
        assert nodes.room() == 2


def test_a_node_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Two nodes beside a head, each a raylet of its own on this machine. One is stopped: its run goes on in
    the other one when that has room."""
    from nacre.ray_cluster import import_ray

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.chdir(HERE)
    import_ray()
    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = importlib.import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=head)
    out = tmp_path / "out"
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]

        def lose() -> None:
            wait_until(lambda: len(jobs()) == 2 and any(rows(run) > 1 for run in runs_of(out)), seconds=200)
            cluster.remove_node(nodes[0], allow_graceful=False)

        loser = threading.Thread(target=lose)
        loser.start()
        path = write_spec(tmp_path, iterations=400)
        flags = ["--out", str(out), "--ray-address", cluster.address]
        cli.main(["--import", "random_learner", "sweep", str(path), *flags])
        loser.join()
    finally:
        cluster.shutdown()
    output = capfd.readouterr().out
    assert "its Ray worker or node was lost (" in output
    assert "2 finished" in output
    assert [rows(run) for run in runs_of(out)] == [400, 400]
    assert not jobs()
