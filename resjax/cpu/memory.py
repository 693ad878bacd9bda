"""Memory of this process, and of the programs that it has compiled.

Every compiled program stays in memory until JAX's caches are cleared. All studies of one network compile some
hundred programs, and most of these serve one study alone.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path

import jax

ENOUGH = 2**30  # bytes that a process may hold without losing its programs
_STATM = Path("/proc/self/statm")


def resident_bytes() -> int | None:
    """Memory that this process holds, in bytes; None where the system does not tell, as on macOS."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def forget_programs(above: int | None = None) -> bool:
    """Drops all compiled programs if the process holds more than ``above`` bytes, or in any case.

    A program that is needed again is compiled again, or read from the cache of
    ``resjax.cpu.compilation.keep_compiled``.

    Returns:
      Whether they were dropped; not where the system does not tell how much the process holds.
    """
    if above is not None and (resident_bytes() or 0) <= above:
        return False
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)  # glibc would keep what was freed
    return True
