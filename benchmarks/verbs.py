"""The command line in processes of its own, one of them killed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def told(*arguments: str) -> dict[str, Any]:
    """What a verb prints with ``--json``."""
    done = subprocess.run([sys.executable, "-m", "ghostify", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def kill_after_an_epoch(*arguments: str, out: Path) -> None:
    """Begin a training, and kill it once its first checkpoint is there."""
    process = subprocess.Popen([sys.executable, "-m", "ghostify", *arguments], stdout=subprocess.DEVNULL)
    while not (out / "checkpoint.pt").exists():
        assert process.poll() is None, "the training failed"
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
