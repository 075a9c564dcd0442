"""A large tensor's memory is there again for the next one."""

import platform
import subprocess
import sys

import pytest

PAGES_FAULTED = """
import resource, torch
from ghostify.allocator import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
for _ in range(3):
    torch.ones(64, 1024, 1024)  # 256 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(64, 1024, 1024)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told how")
def test_freed_memory_is_kept() -> None:
    kept, given_back = (
        int(
            subprocess.run(
                [sys.executable, "-c", PAGES_FAULTED.format(keep=keep)], capture_output=True, check=True
            ).stdout
        )
        for keep in (True, False)
    )
    assert kept < given_back / 10
