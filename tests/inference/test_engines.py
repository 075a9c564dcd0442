"""An engine's process leaves Ctrl-C to its parent, does not outlive it, and is missed in a line where it dies."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import onnxruntime
import pytest
import torch

from ghostify import InputError, create_model
from ghostify.inference import worker
from ghostify.inference.engines import ENGINES, FileRunner, engine_version
from ghostify.inference.export import write_onnx

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


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("files") / "net.onnx"
    write_onnx(create_model("tiny:Tiny").eval(), file, torch.zeros(2, 3, 8, 8))
    return file


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_every_question_to_a_worker_that_died_is_answered_in_a_line(onnx_file: Path) -> None:
    x = torch.zeros(2, 3, 8, 8)
    with FileRunner(onnx_file, "onnxruntime", x) as runner:
        runner.process.kill()
        for ask in (
            lambda: runner.times_ms(1),
            lambda: runner.outputs(x),
            lambda: runner.operators(1),
            runner.peak_memory_mb,
        ):
            with pytest.raises(InputError, match=r"^the process of onnxruntime died: exit status -9, SIGKILL$"):
                ask()


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(3)",
        "import sys; sys.stdin.readline(); print('half an ans', end='', flush=True); raise SystemExit(3)",
        "import sys; sys.stdin.close(); raise SystemExit(3)",
    ],
)
def test_a_worker_that_dies_before_or_amid_its_first_answer_is_told_by_its_status(
    program: str, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = tmp_path / "dying.py"
    dying.write_text(program)
    monkeypatch.setattr(worker, "__file__", str(dying))
    with pytest.raises(InputError, match=r"^the process of onnxruntime died: exit status 3$"):
        FileRunner(onnx_file, "onnxruntime")


def test_an_engine_that_no_file_runs_in_is_refused(onnx_file: Path) -> None:
    for engine in ("eager", "onnxruntim"):
        with pytest.raises(InputError, match=f"^engine is '{engine}': expected one of onnxruntime, openvino$"):
            FileRunner(onnx_file, engine)


def test_the_version_of_an_engine_is_its_modules_under_whatever_name_it_was_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.metadata.Distribution.from_name", not_installed)
    assert engine_version("onnxruntime") == onnxruntime.__version__
    assert engine_version("eager") == engine_version("compile") == torch.__version__
    assert all(engine_version(engine) for engine in ENGINES)
    with pytest.raises(InputError, match="expected one of eager, compile, onnxruntime, openvino"):
        engine_version("onnx")


def not_installed(name: str) -> None:
    raise PackageNotFoundError(name)
