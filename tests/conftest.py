"""Every test runs strict: no silent rank promotion, eight virtual CPU devices, nothing from the network or
compiled by an earlier run. Programs that this run compiled are kept for its other tests."""

import gc
import importlib.metadata
import os
import sys
import tempfile

# Before jax is imported. Eight devices, so that data parallelism is tested on any machine; and a compiler in
# a hurry, because compilation is most of the time of these tests; without XLA's newer way to fuse loops it
# takes a third of the time. Tests that start processes clear the flags, or keep only those of the compiler.
# RESJAX_ACCELERATOR=1 leaves all that as it is, for the tests marked gpu and for no others.
# An unknown flag ends the process, and later releases have no such choice of a way to fuse.
JAXLIB = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
# One piece of machine code a program: these are small, and the workers of pytest-xdist keep all cores busy.
OLDER = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
QUICKLY = ("--xla_backend_optimization_level=0", *(OLDER if JAXLIB < (0, 11) else ()))
FLAGS = ("--xla_force_host_platform_device_count=8", *QUICKLY)
os.environ["RESJAX_CACHE_DIR"] = "off"
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
if not os.environ.get("RESJAX_ACCELERATOR"):
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for flag in FLAGS:
        if flag.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()

# Python's collector would visit all modules again and again while they are imported and programs are traced.
gc.set_threshold(100_000, 20, 20)

import hypothesis
import jax
import pytest

from resjax.cpu.memory import forget_programs

jax.config.update("jax_numpy_rank_promotion", "raise")
# Nobody reads the lines of Python in compiled programs; finding them is part of each lowering.
jax.config.update("jax_traceback_in_locations_limit", 0)
# Many tests build the same network and compile the same program. Each process has a folder of its own, since
# JAX does not write programs atomically.
COMPILED = tempfile.TemporaryDirectory(prefix="resjax-compiled-")
if not os.environ.get("RESJAX_ACCELERATOR"):
    jax.config.update("jax_compilation_cache_dir", COMPILED.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# A busy machine is not an error; what a property costs changes with its examples' compilations.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


# After collection a process holds 530 MiB. What test modules hold from their import on counts: above this
# number, programs would go behind every file. With 1000 MiB instead, a process reached 1.54 GiB.
ENOUGH_BYTES = 800 * 2**20


def pytest_collection_finish():
    """What was imported stays: the collector need not visit it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """Compiled programs go when there are many; without that, a process grows to gigabytes. They go behind a
    file: the next one may have the same small programs, but hardly the same large ones."""
    yield
    if nextitem is None or nextitem.path != item.path:
        # Elsewhere the memory is not known: as if it were too much.
        forget_programs(ENOUGH_BYTES if sys.platform == "linux" else None)


def pytest_unconfigure():
    """No folder is left."""
    COMPILED.cleanup()


@pytest.fixture
def key() -> jax.Array:
    """A fixed random key."""
    return jax.random.key(0)


def _in_float64():
    # The context manager has another name in every second release of JAX; the flag is the same.
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def x64():
    """float64 for a test."""
    yield from _in_float64()


@pytest.fixture(scope="module")
def x64_throughout():
    """float64 for a file whose ``pytestmark`` uses it."""
    yield from _in_float64()


@pytest.fixture
def foreign_code():
    """Other people's code adds arrays of different ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield
