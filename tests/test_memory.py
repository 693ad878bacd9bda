"""Programs that no study needs any more do not fill the memory."""

import platform
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from resjax.cpu import memory


def test_programs_are_forgotten_where_the_process_holds_more_than_enough(monkeypatch):
    twice = jax.jit(lambda x: 2 * x)
    monkeypatch.setattr(memory, "resident_bytes", lambda: 2**30)
    for above, forgotten in ((2**30, False), (2**30 - 1, True), (None, True)):
        twice(jnp.ones(3))
        assert twice._cache_size() == 1
        assert memory.forget_programs(above) == forgotten
        assert twice._cache_size() == 1 - forgotten
    monkeypatch.setattr(memory, "resident_bytes", lambda: None)  # not known
    assert not memory.forget_programs(2**30)


def test_programs_stay_where_memory_that_was_freed_is_what_the_process_holds(monkeypatch):
    held = [2**31]
    monkeypatch.setattr(memory, "resident_bytes", lambda: held[0])
    monkeypatch.setattr(memory, "_return_freed", lambda: held.insert(0, 2**29))
    assert not memory.forget_programs(2**30)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_the_memory_of_this_process_is_known():
    before = memory.resident_bytes()
    held = bytearray(2**28)
    assert memory.resident_bytes() - before > 2**27 and len(held) == 2**28


def test_without_proc_the_memory_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATM", tmp_path / "absent")
    assert memory.resident_bytes() is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such setting")
@pytest.mark.parametrize(
    "name", [None, "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_"]
)
def test_what_the_user_has_set_stays(monkeypatch, name):
    called = []
    library = SimpleNamespace(mallopt=lambda *given: called.append(given) or 1)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: library)
    for variable in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_"):
        monkeypatch.delenv(variable, raising=False)
    if name:
        monkeypatch.setenv(name, "131072")
    memory.keep_freed()
    assert len(called) == (0 if name else 3)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have no such setting")
@pytest.mark.parametrize("thread", ["first", "other"])
def test_freed_memory_stays_with_the_process_until_programs_are_forgotten(thread):
    """Also what a thread other than the first has freed, which glibc keeps in heaps of 64 MiB."""
    # In a process of its own, because the setting can't be taken back.
    code = """
        import sys
        from concurrent.futures import ThreadPoolExecutor
        from resjax.cpu import memory

        way, thread = sys.argv[1:]
        if way == "keep":
            memory.keep_freed()

        def allocate():
            return [i.to_bytes(1) * 2**20 for i in range(200)]

        held = allocate() if thread == "first" else ThreadPoolExecutor(1).submit(allocate).result()
        del held
        kept = memory.resident_bytes()
        memory.forget_programs()
        print(kept - memory.resident_bytes())
    """
    returned = {}
    for way in ("keep", "return"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), way, thread],
            capture_output=True,
            text=True,
            check=True,
        )
        returned[way] = int(done.stdout)
    assert returned["keep"] > 150 * 2**20 > returned["return"]
