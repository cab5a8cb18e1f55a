"""Every test runs with types and shapes checked, and with JAX's silent promotions turned into errors.

This file is read before any test imports nacre, JAX or NumPy: all three parts below depend on that. What is set in
the environment also reaches the processes that tests start.
"""

import os
import tempfile

# One thread for BLAS, or NumPy's pool fights with the simulator's and with XLA's.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "agg"
# Compiled functions are shared by the processes of one test session, and kept out of the user's own cache.
_compilation_cache = tempfile.TemporaryDirectory(prefix="nacre-tests-", ignore_cleanup_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = _compilation_cache.name

import jax  # noqa: E402
import jaxtyping  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

jaxtyping.install_import_hook("nacre", "beartype.beartype")
