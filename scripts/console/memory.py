"""Memory of a training command on a CPU: kept for the next step, not given back and taken again."""

import ctypes
import platform

from fdif_jax.scripts.console.compilation import has_gpu_plugin

# Parameters of glibc's mallopt, by their numbers in malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_memory() -> None:
    """Let freed memory stay with this process; before its threads begin.

    XLA allocates what a step needs anew every step. glibc gives arrays of that size back to the system as they are
    freed, and the system clears every page that it hands out again: 17 % of a fine-tuning's processor time. Nothing
    is done without glibc, or where JAX may compute on a GPU.
    """
    if platform.libc_ver()[0] != "glibc" or has_gpu_plugin():
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_ARENA_MAX, 1)  # the others would map large arrays one by one
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
