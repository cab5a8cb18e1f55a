"""nacre: meta-reinforcement learning by task inference.

The public names are imported when they are first used, so that `import nacre` is quick and `nacre.load` needs nothing
of training. What `import nacre` does at once is to make nacre's task families known to `gymnasium.make`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nacre import environments

if TYPE_CHECKING:
    from nacre.agents import Algorithm, register_algorithm
    from nacre.errors import Interrupted, NacreError, NonFiniteError, SimulationError
    from nacre.evaluation import Evaluation
    from nacre.experiments import Experiment, make_experiment, register_experiment
    from nacre.exporting import export
    from nacre.iteration import Iteration
    from nacre.loading import LoadedAgent, load
    from nacre.original.runs import import_old_run
    from nacre.playing import play
    from nacre.run_evaluation import evaluate
    from nacre.sweeps.running import sweep
    from nacre.tasks import make_family, register_family
    from nacre.training import resume, train

__all__ = [
    "Algorithm",
    "Evaluation",
    "Experiment",
    "Interrupted",
    "Iteration",
    "LoadedAgent",
    "NacreError",
    "NonFiniteError",
    "SimulationError",
    "evaluate",
    "export",
    "import_old_run",
    "load",
    "make_experiment",
    "make_family",
    "play",
    "register_algorithm",
    "register_experiment",
    "register_family",
    "resume",
    "sweep",
    "train",
]

_MODULES = {
    "Algorithm": "nacre.agents",
    "Evaluation": "nacre.evaluation",
    "Experiment": "nacre.experiments",
    "Interrupted": "nacre.errors",
    "Iteration": "nacre.iteration",
    "LoadedAgent": "nacre.loading",
    "NacreError": "nacre.errors",
    "NonFiniteError": "nacre.errors",
    "SimulationError": "nacre.errors",
    "evaluate": "nacre.run_evaluation",
    "export": "nacre.exporting",
    "import_old_run": "nacre.original.runs",
    "load": "nacre.loading",
    "make_experiment": "nacre.experiments",
    "make_family": "nacre.tasks",
    "play": "nacre.playing",
    "register_algorithm": "nacre.agents",
    "register_experiment": "nacre.experiments",
    "register_family": "nacre.tasks",
    "resume": "nacre.training",
    "sweep": "nacre.sweeps.running",
    "train": "nacre.training",
}
# No module may be called like one of these functions: importing it would put the module in the function's place.

environments.register()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("nacre")
    if name not in _MODULES:
        raise AttributeError(f"module 'nacre' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
