"""A large tensor's memory is there again for the next one."""

import json
import platform
import subprocess
import sys

import pytest

from ghostify import allocator

# The module by its file: importing the whole package takes longer than the test.
PAGES_FAULTED = f"""
import json, resource, runpy, torch
keep_freed_memory = runpy.run_path({allocator.__file__!r})["keep_freed_memory"]

def faulted():
    for _ in range(16):  # small tensors settle between large ones, and need a place of their own
        torch.ones(64, 1024, 256)  # 67 MB: twice what glibc keeps by itself
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(64, 1024, 256)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faulted()
assert keep_freed_memory()
print(json.dumps([faulted(), given_back]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told how")
def test_freed_memory_is_kept() -> None:
    done = subprocess.run([sys.executable, "-c", PAGES_FAULTED], capture_output=True, check=True)
    kept, given_back = json.loads(done.stdout)
    assert kept < given_back / 10
