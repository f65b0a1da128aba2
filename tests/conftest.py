"""What every test may use: real data, float64, and several simulated devices."""

from __future__ import annotations

import atexit
import importlib.metadata
import os
import pathlib
import shutil
import tempfile

# Before jax is imported: eight simulated CPU devices for the sharding tests. NPROC keeps the collectives of
# simulated devices from waiting for threads that a small machine does not have.
os.environ.setdefault("NPROC", "32")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

# The suite compiles hundreds of small programs to run each once: code made in one piece, and by the plainer of
# XLA:CPU's two generators where a version has both, takes it half the time.
os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

# What one test compiled the next need not: a run that resumes builds the same step again. Short compilations too: it
# is they that are many.
_cache = tempfile.mkdtemp(prefix="jaxmodels-compiled-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)

import jax
import pytest


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real data; the test is skipped where there is none."""
    default = pathlib.Path(__file__).parents[2] / "shared" / "data"
    path = pathlib.Path(os.environ.get("JAXMODELS_TEST_DATA", default))
    if not path.is_dir():
        pytest.skip(f"needs test data: {path} does not exist (set JAXMODELS_TEST_DATA)")
    return path


@pytest.fixture(autouse=True, scope="module")
def _optimisation(request):
    """A file that is marked ``unoptimised`` takes half the time; what it compiles serves no other."""
    if request.node.get_closest_marker("unoptimised") is None:
        yield
        return
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


@pytest.fixture
def x64():
    """float64 inside the test, restored after it."""
    with jax.enable_x64(True):
        yield
