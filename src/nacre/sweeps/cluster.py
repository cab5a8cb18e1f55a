"""Runs of a sweep on the nodes of a Ray cluster. The folder of the sweep is on a disk that all of them have.

On its node a run is a process of its own, as on one machine: a Ray actor starts it and says how it ended. If the actor,
its node or the whole cluster goes, the process notices, saves and ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nacre.errors import NacreError
from nacre.files import in_words
from nacre.ray_cluster import connected
from nacre.sweeps.processes import SAVED, Job, Process, request_of
from nacre.sweeps.specification import Planned

SECONDS_TO_KILL = 10.0
"""In which the actors have to end their processes, all of them together."""


@contextlib.contextmanager
def on_cluster(address: str, cores: int, memory: float, jobs: int | None, wandb: bool) -> Iterator[Nodes]:
    """Joins a cluster; see :class:`Nodes`.

    Raises:
        NacreError: Ray is not installed, no cluster answers, or none of its nodes has room for a run.
    """
    with (
        connected(address) as found,
        contextlib.closing(Nodes(found.ray, str(found), cores, memory, jobs, wandb)) as place,
    ):
        yield place


class Nodes:
    """The nodes of a Ray cluster. Each run is an actor with the cores and the memory that it needs."""

    def __init__(self, ray: Any, name: str, cores: int, memory: float, jobs: int | None, wandb: bool):
        """
        Args:
            ray: the module, connected.
            name: what the cluster is called in messages.
            cores: for each run.
            memory: bytes for each run.
            jobs: at most so many runs at once; if the cluster has no room for them, they wait. None: as many as the
                cluster has room for now.
            wandb: whether runs have boards of Weights & Biases.

        Raises:
            NacreError: none of its nodes has room for a run.
        """
        self._ray, self._wandb = ray, wandb
        self._cores, self._memory = cores, memory
        self._begun: list[_Remote] = []
        places = sum(self._places(node) for node in self._ray.nodes())
        if not places and jobs is None:
            raise NacreError(
                f"no node of {name} has {cores} cores and {in_words(memory)} of memory, as a run needs; with --jobs N "
                "runs wait until the cluster has grown"
            )
        self._jobs = places if jobs is None else jobs

    def room(self) -> int:
        self._begun = [job for job in self._begun if job.poll() is None]
        return self._jobs - len(self._begun)

    def begin(self, run: Planned, folder: Path, log: Path) -> Job:
        gpus = 0 if run.experiment.device == "cpu" else int(self._ray.cluster_resources().get("GPU", 0) > 0)
        actor = self._ray.remote(_OnNode).options(num_cpus=self._cores, num_gpus=gpus, memory=int(self._memory))
        request = request_of(run, folder.absolute(), None, self._cores, self._wandb)
        job = _Remote(self._ray, actor.remote(request, str(log.absolute()), sys.path))
        self._begun.append(job)
        return job

    def close(self) -> None:
        for job in self._begun:
            job.kill()
        asked = [job.killed for job in self._begun if job.killed is not None]
        if asked:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.wait(asked, num_returns=len(asked), timeout=SECONDS_TO_KILL)
        for job in self._begun:
            job.forget()

    def _places(self, node: dict[str, Any]) -> int:
        resources = node["Resources"]
        if not node["Alive"]:
            return 0
        return int(min(resources.get("CPU", 0) // self._cores, resources.get("memory", 0) // self._memory))


class _OnNode:
    """The actor. `poll` and `stop` return at once. If it is killed, its process saves and ends."""

    def __init__(self, request: bytes, log: str, path: list[str]):
        """`path`: where the driver finds modules, so that a run finds those that the command line named."""
        places = [os.path.abspath(place) for place in path]
        self._process = Process(request, Path(log), {"PYTHONPATH": os.pathsep.join(places)})

    def poll(self) -> str | None:
        return self._process.poll()

    def stop(self) -> None:
        self._process.stop()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class _Remote:
    """A run on a node, as the driver knows it."""

    def __init__(self, ray: Any, actor: Any):
        self._ray, self._actor = ray, actor
        self._asked: Any = None
        self._has_begun = False
        """Whether it has answered: until then it may wait for a node with room."""
        self._ended: str | None = None
        self.killed: Any = None
        """The reference to the answer that its process is killed."""

    def poll(self) -> str | None:
        """It never waits: the answer to the question of before is read, if it is there."""
        if self._ended is not None:
            return self._ended
        if self._asked is None:
            self._asked = self._actor.poll.remote()
        ready, _ = self._ray.wait([self._asked], timeout=0)
        if not ready:
            return None
        try:
            self._ended = self._ray.get(self._asked)
        except self._ray.exceptions.RayError as error:
            self._ended = f"its Ray worker or node was lost ({type(error).__name__})"
        self._asked, self._has_begun = None, True
        if self._ended is not None:
            self.forget()
        return self._ended

    def stop(self) -> None:
        """An actor that has not begun would hear it when there is room. It is ended, as there is nothing to save; if it
        has begun just now, its process saves and ends by itself."""
        if self.poll() is not None:
            return
        if not self._has_begun:
            self._ended = SAVED
            self.forget()
            return
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._actor.stop.remote()

    def kill(self) -> None:
        """It waits for nothing; :meth:`Nodes.close` does, for all together."""
        if self._ended is None:
            self._ended = "killed"
            if not self._has_begun:
                self.forget()
                return
            with contextlib.suppress(self._ray.exceptions.RayError):
                self.killed = self._actor.kill.remote()

    def forget(self) -> None:
        """Ends the actor."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor)
