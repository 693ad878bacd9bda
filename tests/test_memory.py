"""Programs that no study needs any more do not fill the memory."""

import sys

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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_the_memory_of_this_process_is_known():
    before = memory.resident_bytes()
    held = bytearray(2**28)
    assert memory.resident_bytes() - before > 2**27 and len(held) == 2**28


def test_without_proc_the_memory_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATM", tmp_path / "absent")
    assert memory.resident_bytes() is None
