"""Memory that stays in the process between two large tensors."""

import ctypes
import sys

# Of glibc's mallopt: https://man7.org/linux/man-pages/man3/mallopt.3.html
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory of large tensors that it frees; whether the system knows how.

    By default glibc gives a block of more than 32 MB back to the system at once, and the next tensor of that size
    gets it again page by page, each cleared: with images of 224 pixels that takes several times as long as the
    computation. For the command line and for scripts; it lasts as long as the process.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library than glibc
        return False
    never = -1  # as a size the largest there is
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, never))
