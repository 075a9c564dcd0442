"""A network's file in an engine, in a process of its own.

Two engines' threads in one process wait for each other, and PyTorch's for both. So this file is run as a program that
imports the one engine and nothing of ours; it answers lines of JSON on its standard input with lines on its output.
``process.Process`` asks.
"""

import ctypes
import importlib
import importlib.util
import json
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Arrays = list[Any]


class OnnxRuntime:
    """ONNX Runtime on the CPU, or on a GPU where its build has one."""

    def __init__(self, path: str, device: str, threads: int, bf16: bool, profile: bool) -> None:
        self.library: Any = importlib.import_module("onnxruntime")
        provider = "CUDAExecutionProvider" if device.startswith("cuda") else "CPUExecutionProvider"
        if provider not in self.library.get_available_providers():
            raise ValueError(f"this onnxruntime has no {provider}")
        if bf16:
            raise ValueError("onnxruntime has no bf16 on a CPU")
        self.path, self.provider, self.threads, self.profile = path, provider, threads, profile
        self.on_gpu = provider == "CUDAExecutionProvider"

    def load(self, example: Any) -> None:
        options = self.library.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.enable_profiling = self.profile
        options.profile_file_prefix = str(Path(self.path).with_name("profile"))
        options.log_severity_level = 3
        if example is not None:  # the engine plans for this batch, as OpenVINO does
            options.add_free_dimension_override_by_name("batch", len(example))
        if self.on_gpu and hasattr(self.library, "preload_dlls"):
            self.library.preload_dlls()  # CUDA's libraries as PyTorch was installed with them
        self.session = self.library.InferenceSession(self.path, options, providers=[self.provider])
        if self.provider not in self.session.get_providers():  # it would take the CPU without a word
            raise ValueError(f"onnxruntime cannot load its {self.provider}")
        given = self.session.get_inputs()
        if len(given) != 1:
            raise ValueError(f"it takes {len(given)} inputs: expected one, the images")
        self.input, self.shape = given[0].name, [size if isinstance(size, int) else None for size in given[0].shape]

    def run(self, x: Any) -> Arrays:
        return list(self.session.run(None, {self.input: x}))

    def call_of(self, x: Any) -> Callable[[], object]:
        """A call to be timed; on a GPU with inputs and outputs there: the way to it and back is not the network's."""
        if not self.on_gpu:
            return partial(self.run, x)
        binding = self.session.io_binding()
        binding.bind_ortvalue_input(self.input, self.library.OrtValue.ortvalue_from_numpy(x, "cuda", 0))
        for output in self.session.get_outputs():
            binding.bind_output(output.name, "cuda")

        def call() -> None:
            self.session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return call

    def profiled(self, x: Any, calls: int) -> list[dict[str, Any]]:
        for _ in range(calls):
            self.run(x)
        profile = Path(self.session.end_profiling())
        events = json.loads(profile.read_text())
        profile.unlink()
        times: dict[str, dict[str, Any]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                name = event["name"].removesuffix("_kernel_time")
                row = times.setdefault(name, {"name": name, "kind": event["args"]["op_name"], "ms": []})
                row["ms"].append(event["dur"] / 1e3)
        return list(times.values())


class OpenVino:
    """OpenVINO on the CPU."""

    def __init__(self, path: str, device: str, threads: int, bf16: bool, profile: bool) -> None:
        if device != "cpu":
            raise ValueError(f"openvino runs on the CPU here, not on {device}")
        self.library: Any = importlib.import_module("openvino")
        self.path, self.calls = path, 0
        self.settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # Left alone it takes bf16 where the processor has it.
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "PERF_COUNT": profile,
        }

    def load(self, example: Any) -> None:
        core = self.library.Core()
        bf16 = self.settings["INFERENCE_PRECISION_HINT"] == "bf16"
        if bf16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ValueError("openvino has no bf16 on this processor")  # it would take float32 without a word
        model = core.read_model(self.path)
        if len(model.inputs) != 1:
            raise ValueError(f"it takes {len(model.inputs)} inputs: expected one, the images")
        shape = model.inputs[0].partial_shape
        if shape.rank.is_dynamic:
            raise ValueError("it does not say how many dimensions its input has")
        self.shape = [None if size.is_dynamic else size.get_length() for size in shape]
        if example is not None:
            model.reshape(list(example.shape))
        self.request = core.compile_model(model, "CPU", self.settings).create_infer_request()

    def run(self, x: Any) -> Arrays:
        self.request.infer([x], share_inputs=True)
        self.calls += 1
        return [tensor.data.copy() for tensor in self.request.output_tensors]

    def call_of(self, x: Any) -> Callable[[], object]:
        """A call to be timed."""
        return partial(self.run, x)

    def profiled(self, x: Any, calls: int) -> list[dict[str, Any]]:
        # It has means over all calls so far, in whole microseconds: the difference of two of them is exact to
        # three of these where as many calls lie between as before.
        times: dict[str, dict[str, Any]] = {}
        before, end = self.totals_ms(), self.calls + calls
        while self.calls < end:
            window = self.calls
            for _ in range(window):
                self.run(x)
            after = self.totals_ms()
            for (name, kind), total in after.items():
                row = times.setdefault(name, {"name": name, "kind": kind, "ms": []})
                row["ms"].append(max(0.0, total - before.get((name, kind), 0.0)) / window)
            before = after
        return list(times.values())

    def totals_ms(self) -> dict[tuple[str, str], float]:
        """Milliseconds of each operator in all calls so far, by its name and kind."""
        return {
            (info.node_name, f"{info.node_type} {info.exec_type}"): info.real_time.total_seconds() * 1e3 * self.calls
            for info in self.request.profiling_info
            if info.status.name == "EXECUTED"
        }


ENGINES: dict[str, Callable[..., Any]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal to get when the thread that started this process ends
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_mb(key: str) -> float:
    """``VmRSS``, now, or ``VmHWM``, the peak; megabytes of 10⁶ bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e6


class Worker:
    """The requests that a worker answers, by name."""

    def open(
        self, engine: str, path: str, example: str | None, device: str, threads: int, bf16: bool, profile: bool
    ) -> dict[str, Any]:
        """Load and call once: seconds to load, milliseconds of the first call, the input's shape as the file has it."""
        self.example = np.load(example) if example else None
        self.engine = ENGINES[engine](path, device, threads, bf16, profile)
        self.before_mb = resident_mb("VmRSS") if CLEAR.exists() else None
        if self.before_mb is not None:
            CLEAR.write_text("5")  # the peak is from now on
        started = time.perf_counter()
        self.engine.load(self.example)
        loaded = time.perf_counter()
        if self.example is not None:
            self.engine.run(self.example)
        first_ms = (time.perf_counter() - loaded) * 1e3
        return {"load_s": loaded - started, "first_ms": first_ms, "shape": self.engine.shape}

    def time(self, calls: int) -> list[float]:
        """Milliseconds of each call."""
        times, call = [], self.engine.call_of(self.example)
        for _ in range(calls):
            started = time.perf_counter()
            call()
            times.append((time.perf_counter() - started) * 1e3)
        return times

    def profile(self, calls: int) -> list[dict[str, Any]]:
        """Milliseconds of each operator in each call."""
        rows: list[dict[str, Any]] = self.engine.profiled(self.example, calls)
        return rows

    def memory(self) -> float | None:
        """Megabytes that loading and calling took at their peak."""
        return None if self.before_mb is None else resident_mb("VmHWM") - self.before_mb

    def run(self, inputs: str, outputs: str) -> None:
        """The outputs for an array's file, into a file."""
        np.savez(outputs, *self.engine.run(np.load(inputs)))

    def quantize(self, **details: Any) -> dict[str, Any]:
        """Quantise a file: what ``quantizer.quantize`` says of it."""
        spec = importlib.util.spec_from_file_location("quantizer", Path(__file__).with_name("quantizer.py"))
        assert spec is not None
        assert spec.loader is not None
        quantizer = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(quantizer)
        found: dict[str, Any] = quantizer.quantize(**details)
        return found


def stay_with_parent() -> None:
    """Leave Ctrl-C to the parent, which ends this process; on Linux end with it, even while stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def main() -> None:
    stay_with_parent()
    worker = Worker()
    # What an engine prints must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = {"answer": getattr(worker, question.pop("ask"))(**question)}
        except Exception as error:  # noqa: BLE001  # whatever an engine raises goes to the caller
            answer = {"error": f"{type(error).__name__}: {error}".strip()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
