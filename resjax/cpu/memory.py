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
_TRIM, _PAD, _MAP = -1, -2, -3  # M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of glibc's malloc.h
_LARGE = 2**25  # bytes, the largest that glibc allows on 64-bit systems
_HEAP = 2**26  # bytes of a heap of a thread other than the first, on 64-bit systems
_STATM = Path("/proc/self/statm")


def resident_bytes() -> int | None:
    """Memory that this process holds, in bytes; None where the system does not tell, as on macOS."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def keep_freed() -> None:
    """Lets this process keep the memory that it frees, for its next allocation; on Linux with glibc only.

    By default, glibc returns what a program's arrays have occupied to the system, which then clears each page
    again for the next program: about 5 % of the processor time of an analysis that runs unit by unit. Arrays
    of more than 32 MiB are still returned, and so is most of the rest with ``forget_programs``. Nothing
    changes where the user has set one of the variables MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_ or
    MALLOC_TOP_PAD_.

    Threads other than the first have heaps of 64 MiB. glibc returns an empty one whatever M_TRIM_THRESHOLD
    is, but not if the free rest of the heap before it is smaller than M_TOP_PAD. The free end of a thread's
    last heap is never returned.
    """
    set_by_user = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_"} & os.environ.keys()
    if sys.platform != "linux" or set_by_user:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and mallopt(_MAP, _LARGE):
        mallopt(_TRIM, 2**31 - 1)
        mallopt(_PAD, _HEAP)


def forget_programs(above: int | None = None) -> bool:
    """Drops all compiled programs if the process holds more than ``above`` bytes, or in any case. Memory
    that was freed does not count: it goes back to the system first.

    A program that is needed again is compiled again, or read from the cache of
    ``resjax.cpu.compilation.keep_compiled``.

    Returns:
      Whether they were dropped; not where the system does not tell how much the process holds.
    """
    _return_freed()
    if above is not None and (resident_bytes() or 0) <= above:
        return False
    jax.clear_caches()
    gc.collect()
    _return_freed()
    return True


def _return_freed() -> None:
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
