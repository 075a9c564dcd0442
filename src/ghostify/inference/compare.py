"""Two networks in one engine, side by side."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Protocol

import torch
import torch._dynamo.config
from torch import Tensor, nn

from ghostify.errors import InputError, first_sentence, spelled
from ghostify.inference.deploy import copied, unlogged
from ghostify.inference.engines import FILE_ENGINES, FileRunner, check_engine
from ghostify.inference.export import write_onnx
from ghostify.measure.latency import EAGER, Comparison, Conditions, summarise
from ghostify.modes import evaluating
from ghostify.plain_part import plain_part
from ghostify.wrappers import unwrapped

with unlogged():  # its module warns of a CUDA toolkit without a GPU, as if it were to compile something
    from torch.utils.benchmark import Timer


class Runner(Protocol):
    """A network that can be timed."""

    first_ms: float

    def times_ms(self, calls: int) -> list[float]:
        """Milliseconds of each call."""


class TorchRunner:
    """A network in PyTorch, as it is or compiled.

    Both networks of a comparison run in this process: they share one pool of threads.
    """

    def __init__(self, model: nn.Module, example: Tensor, *, compiled: bool, threads: int) -> None:
        call: Callable[[Tensor], object] = model
        if compiled:
            # Freezing lets the compiler lay out the weights once; it is for inference only.
            call = torch.compile(model, options={"triton.cudagraphs" if example.is_cuda else "freezing": True})
        self.timer = Timer("model(x)", globals={"model": call, "x": example}, num_threads=threads)
        try:
            (self.first_ms,) = self.times_ms(1)
        except Exception as error:  # whatever the network's own code raises
            shape = "×".join(map(str, example.shape))
            raise InputError(
                f"{type(model).__name__} cannot take an input of {shape}: {first_sentence(error)}"
            ) from error

    def times_ms(self, calls: int) -> list[float]:
        return [self.timer.timeit(1).mean * 1e3 for _ in range(calls)]


@torch.no_grad()
def compare(
    a: nn.Module,
    b: nn.Module,
    example: Tensor,
    *,
    engine: str = "eager",
    threads: int = 1,
    blocks: int = 30,
    block_ms: float = 60.0,
) -> Comparison:
    """Measure the latency of ``b`` over that of ``a`` on the same input, in eval mode.

    The networks run as they are: ``deploy`` them for the form that ``export`` writes. Both warm up;
    then blocks of calls alternate, each pair in the other order than the last, so that a machine that slows
    down slows both. In PyTorch both share this process and its threads; in the other engines each has a
    process of its own, and one waits while the other runs.

    Args:
        a, b: Networks, or detectors, whose plain parts are timed.
        example: One batch ``[batch, channels, height, width]`` on the networks' device, in the data type to
            compute in.
        engine: "eager", PyTorch as it is; "compile", ``torch.compile``; "onnxruntime" or "openvino", on the CPU.
        threads: CPU threads of both.
        blocks: Blocks of each network, at least 6: fewer give no 95 % interval.
        block_ms: Intended length of a block, milliseconds.
    Raises:
        InputError: If the engine is unknown or cannot run one of them, or blocks or threads are too few.
    Example:
        >>> same = nn.Linear(8, 8)
        >>> compare(same, same, torch.ones(1, 8), blocks=6, block_ms=1).a_ms > 0
        True
    """
    check_engine(engine)
    if threads < 1 or blocks < 6:
        raise InputError(
            f"{spelled('threads')} is {threads} and {spelled('blocks')} {blocks}: expected at least 1 and 6"
        )
    a, b = plain_part(unwrapped(a)), plain_part(unwrapped(b))
    with ExitStack() as stack:
        stack.enter_context(evaluating(a, b))
        if engine == "compile":
            # Of too many networks of one class it would leave the last ones as they are, without a word.
            no_limit = {"recompile_limit": sys.maxsize, "accumulated_recompile_limit": sys.maxsize}
            stack.enter_context(torch._dynamo.config.patch(no_limit))
        stack.enter_context(torch.inference_mode())
        folder = Path(stack.enter_context(TemporaryDirectory()))
        runners: list[Runner] = []
        bf16 = engine in FILE_ENGINES and example.dtype == torch.bfloat16
        given = example.float() if bf16 else example  # of a file in float32 the engine computes in bf16
        for name, model in (("a", a), ("b", b)):
            own = model if dtype_of(model) in (given.dtype, None) else copied(model).to(given.dtype)
            if engine not in FILE_ENGINES:
                runners.append(TorchRunner(own, example, compiled=engine == "compile", threads=threads))
                continue
            file = folder / f"{name}.onnx"
            with torch.inference_mode(False):  # whose tensors cannot be exported
                write_onnx(own, file, given, engine=engine)
            own_process = FileRunner(file, engine, given, device=example.device.type, threads=threads, bf16=bf16)
            runners.append(stack.enter_context(own_process))
        return interleaved(
            runners[0],
            runners[1],
            blocks=blocks,
            block_ms=block_ms,
            conditions=Conditions(engine, threads, str(example.device), str(example.dtype).removeprefix("torch.")),
        )


def interleaved(a: Runner, b: Runner, *, blocks: int, block_ms: float, conditions: Conditions = EAGER) -> Comparison:
    """Time two networks in turn, block by block.

    Args:
        blocks: Blocks of each network, at least 6.
        block_ms: Intended length of a block, milliseconds.
        conditions: How both run, for the record.
    """
    runners = (a, b)
    # Allocation, kernel choice and caches settle in these first calls.
    calls = [max(1, round(block_ms / min(runner.times_ms(4)))) for runner in runners]
    times_ms: tuple[list[list[float]], list[list[float]]] = ([], [])
    for block in range(blocks):
        for side in (0, 1) if block % 2 == 0 else (1, 0):
            times_ms[side].append(runners[side].times_ms(calls[side]))
    return summarise(
        *([fmean(block) for block in side] for side in times_ms),
        least_ms=(min(map(min, times_ms[0])), min(map(min, times_ms[1]))),
        first_ms=(a.first_ms, b.first_ms),
        calls_per_block=(calls[0], calls[1]),
        conditions=conditions,
    )


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """The data type of a network's weights; None without weights."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
