"""An engine's process leaves Ctrl-C to its parent, and does not outlive it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ghostify.inference import worker

QUESTION = json.dumps({"ask": "memory"}) + "\n"  # refused, as nothing is open: an answer all the same
# Starts a worker, has its answer, stops it as `FileRunner` does between questions, tells its number and waits.
PARENT = f"""
import os, signal, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-P", {worker.__file__!r}], stdin=-1, stdout=-1, text=True)
worker.stdin.write({QUESTION!r})
worker.stdin.flush()
worker.stdout.readline()
worker.send_signal(signal.SIGSTOP)
print(worker.pid, flush=True)
time.sleep(60)
"""


def test_ctrl_c_does_not_end_a_worker_with_a_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", worker.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(QUESTION)
    process.stdin.flush()
    assert "error" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    answer, told = process.communicate(QUESTION, timeout=60)
    assert "error" in answer
    assert (process.returncode, told) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_stopped_worker_ends_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        parent.kill()
    for _ in range(600):
        if not is_running(number):
            return
        time.sleep(0.1)
    os.kill(number, signal.SIGKILL)
    pytest.fail("the worker outlived its parent by a minute")


def is_running(number: int) -> bool:
    status = Path(f"/proc/{number}/status")
    return status.exists() and "\nState:\tZ" not in status.read_text()  # a zombie only waits to be counted
