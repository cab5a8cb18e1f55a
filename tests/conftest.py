"""Every test runs with types and shapes checked, and with JAX's silent promotions turned into errors.

This file is read before any test imports nacre, JAX or NumPy: all three parts below depend on that. What is set in
the environment also reaches the processes that tests start.
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# One thread for BLAS, or NumPy's pool fights with the simulator's and with XLA's.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ["JAX_PLATFORMS"] = "cpu"
# Most programs of tests are tiny and run a few times: compiling them well would take most of the time. XLA's older
# emitters of fused loops need half the time of the newer ones to compile.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
# A job in the background of a shell, or under nohup, ignores these signals, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.environ["MPLBACKEND"] = "agg"
# Compiled functions are shared by the processes of one test session, and kept out of the user's own cache.
if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker has what the process that started it has set
    _compilation_cache = tempfile.TemporaryDirectory(prefix="nacre-tests-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compilation_cache.name

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

jaxtyping.install_import_hook("nacre", "beartype.beartype")

TINY = {
    "iterations": 2,
    "train_tasks": 3,
    "test_tasks": 2,
    "hidden_size": 8,
    "encoder_hidden_size": 8,
    "latent_size": 2,
    "initial_steps": 40,
    "tasks_per_iteration": 2,
    "prior_steps": 20,
    "extra_posterior_steps": 20,
    "updates_per_iteration": 4,
    "update_chunk": 2,
    "meta_batch_size": 2,
    "batch_size": 8,
    "context_size": 8,
    "threads": 1,
}
"""What makes of pearl/point-robot a run of seconds, almost all of them compilation."""


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Forgets the programs of a module's tests: XLA crashes where a process reaches the number of memory maps that
    Linux allows it (vm.max_map_count, 65 530), and the programs of all modules together would."""
    yield
    jax.clear_caches()


@pytest.fixture
def compiled_as_for_users() -> Iterator[None]:
    """For programs that run long, and for what is so only if XLA optimises."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def tiny() -> dict[str, int]:
    """Overrides of pearl/point-robot that `tiny_run` was made with."""
    return dict(TINY)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of two iterations, made once by the command line. To read only: `run_copy` may be spoilt."""
    from nacre.cli import main

    run = tmp_path_factory.mktemp("tiny") / "run"
    main(["train", "pearl/point-robot", *flags(TINY), "--out", str(run)])
    return run


@pytest.fixture
def run_copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_run` of the test's own."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def flags(overrides: dict[str, int]) -> list[str]:
    """Overrides as the command line takes them."""
    return [f"--{field.replace('_', '-')}={value}" for field, value in overrides.items()]


OWN_MODULES = ("random_learner", "task_regression")
"""What tests import as modules of a user's own."""


@pytest.fixture(scope="module", autouse=True)
def own_registrations() -> Iterator[None]:
    """What a module of tests makes known is forgotten after it, and its modules can be imported anew."""
    from nacre import experiments, extensions
    from nacre.agents import ALGORITHMS
    from nacre.tasks import FAMILIES

    tables: list[dict[str, Any]] = [ALGORITHMS, FAMILIES, experiments._REGISTERED]
    before, path = [dict(table) for table in tables], list(sys.path)
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)
    extensions._imported.clear()
    sys.path[:] = path
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN_MODULES]:
        del sys.modules[name]
