"""Keeping a process small that sleeps most of its life.

- glibc gives every thread an arena of its own, up to eight a core, and none is ever given back:
  one is enough for threads that hash and write.
- What a start, a listing or a signature has used stays with the allocator; it is given back when
  the work is done.
- Where the C library is another one, nothing happens.
"""

import ctypes
import gc
from typing import Final

_M_ARENA_MAX: Final = -8
"""``mallopt(3)``."""


def use_one_arena() -> None:
    """Let all threads that start from now on share one heap."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Collect what is not used any more, and give it to the system; takes milliseconds."""
    gc.collect()
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
