"""Workers on a Ray cluster of several nodes, on one machine: raylets of their own, of which one is stopped."""

from __future__ import annotations

import importlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from extras import NEEDS_RAY
from test_parts import HORIZON, counting
from test_ray import SlowClock, play_until

from nacre import workers as workers_module
from nacre.errors import NacreError, WorkersLostError
from nacre.ray_cluster import connected, import_ray
from nacre.worker_options import WorkerOptions
from nacre.workers import hired

pytestmark = [
    NEEDS_RAY,
    pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning"),  # by Ray's own tool for clusters
]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without processors, and nodes of one each."""
    import_ray()
    made = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    yield made
    made.shutdown()


def test_a_node_is_lost(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    said: list[str] = []
    with hired(SlowClock(HORIZON), None, WorkerOptions(2, cluster.address, worker_timeout=30.0)) as workers:
        assert workers is not None
        workers.say = said.append
        play_until(workers, lambda: all(seat.place is not None for seat in workers._seats))
        stop = threading.Timer(0.3, lambda: cluster.remove_node(nodes.pop(), allow_graceful=False))
        stop.start()
        play_until(workers, lambda: bool(said))
        stop.join()
        assert "what it played is played again" in said[0]
        # And no worker at all.
        monkeypatch.setattr(workers_module, "TO_BEGIN", 3.0)
        workers.timeout = 3.0
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        with pytest.raises(WorkersLostError, match=r"no worker could be had in .* s: 2 were asked for on the Ray"):
            workers.play([counting(4)])


def test_no_cluster_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(
        NacreError, match=f"no Ray cluster answers at {address}: Connection refused; is its head running"
    ):
        connected(address).__enter__()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("address", ["", "here", "here:", ":80", "ray://here:1", "here:0", "here:99999"])
def test_impossible_addresses(address: str) -> None:
    with pytest.raises(NacreError, match="allowed: HOST:PORT of a cluster's head, or auto"):
        connected(address).__enter__()
