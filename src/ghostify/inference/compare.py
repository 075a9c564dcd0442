"""Two networks in one engine, side by side."""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch._dynamo.config
from torch import Tensor, nn

from ghostify.errors import InputError, first_sentence, spelled
from ghostify.inference.deploy import copied, unlogged
from ghostify.inference.engine_file import dtype_of, engine_file
from ghostify.inference.engines import FILE_ENGINES, FileRunner, Precision, check_engine, precisions_of
from ghostify.inference.file_network import FileNetwork, refuse_other_reader
from ghostify.inference.in_turn import Runner, interleaved
from ghostify.measure.latency import Comparison, Conditions, gpu_times_ms
from ghostify.modes import evaluating
from ghostify.plain_part import plain_part
from ghostify.wrappers import unwrapped

with unlogged():  # its module warns of a CUDA toolkit without a GPU, as if it were to compile something
    from torch.utils.benchmark import Timer


Network = nn.Module | str | os.PathLike[str]


class TorchRunner:
    """A network in PyTorch, as it is or compiled; on a GPU timed by its events.

    Both networks of a comparison run in this process: they share one pool of threads.
    """

    def __init__(self, model: nn.Module, example: Tensor, *, compiled: bool, threads: int) -> None:
        call: Callable[[Tensor], object] = model
        if compiled:
            # Freezing lets the compiler lay out the weights once; it is for inference only.
            call = torch.compile(model, options={"triton.cudagraphs" if example.is_cuda else "freezing": True})
        self.call, self.example = call, example
        self.timer = Timer("model(x)", globals={"model": call, "x": example}, num_threads=threads)
        try:
            (self.first_ms,) = self.times_ms(1)
        except Exception as error:  # whatever the network's own code raises
            shape = "×".join(map(str, example.shape))
            raise InputError(
                f"{type(model).__name__} cannot take an input of {shape}: {first_sentence(error)}"
            ) from error

    def times_ms(self, calls: int) -> list[float]:
        if self.example.is_cuda:
            with torch.cuda.device(self.example.device):
                return gpu_times_ms(lambda: self.call(self.example), calls)
        return [self.timer.timeit(1).mean * 1e3 for _ in range(calls)]


@torch.no_grad()
def compare(
    a: Network,
    b: Network,
    example: Tensor,
    *,
    engine: str = "eager",
    threads: int = 1,
    precision: Precision | tuple[Precision, Precision] | None = None,
    blocks: int = 30,
    block_ms: float = 60.0,
) -> Comparison:
    """Measure the latency of ``b`` over that of ``a`` on the same input, in eval mode.

    The networks run as they are: ``deploy`` them for the form that ``export`` writes. Both warm up;
    then blocks of calls alternate, each pair in the other order than the last, so that a machine that slows
    down slows both. In PyTorch both share this process and its threads; in the other engines each has a
    process of its own, and one waits while the other runs.

    Args:
        a, b: Networks; detectors, whose plain parts are timed; or exported files, by their paths.
        example: One batch ``[batch, channels, height, width]`` on the networks' device, in the data type to
            compute in.
        engine: "eager", PyTorch as it is; "compile", ``torch.compile``; "onnxruntime" or "openvino", on the CPU.
        threads: CPU threads of both.
        precision: "fp32": as a network or file is; "bf16", where the processor has it; "int8": quantised by NNCF, with
            ranges taken from the example, in onnxruntime and openvino. One for both, or that of ``a`` and that of
            ``b``. None: "bf16" for an example in bfloat16, else "fp32".
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
    precisions = precisions_of(precision, engine, example)
    networks = [opened(network, engine) for network in (a, b)]
    with ExitStack() as stack:
        stack.enter_context(evaluating(*networks))
        if engine == "compile":
            # Of too many networks of one class it would leave the last ones as they are, without a word.
            no_limit = {"recompile_limit": sys.maxsize, "accumulated_recompile_limit": sys.maxsize}
            stack.enter_context(torch._dynamo.config.patch(no_limit))
        stack.enter_context(torch.inference_mode())
        runners: list[Runner] = []
        for network, own_precision in zip(networks, precisions, strict=True):
            if engine in FILE_ENGINES:
                folder = Path(stack.enter_context(TemporaryDirectory()))
                given = example.float() if example.dtype == torch.bfloat16 else example
                file = engine_file(network, folder, given, engine=engine, precision=own_precision)
                bf16, device = own_precision == "bf16", example.device.type
                runner = FileRunner(file, engine, given, device=device, threads=threads, bf16=bf16)
                runners.append(stack.enter_context(runner))
                continue
            given = example.bfloat16() if own_precision == "bf16" else example
            own = network if dtype_of(network) in (given.dtype, None) else copied(network).to(given.dtype)
            runners.append(TorchRunner(own, given, compiled=engine == "compile", threads=threads))
        dtype = str(example.dtype).removeprefix("torch.")
        return interleaved(
            runners[0],
            runners[1],
            blocks=blocks,
            block_ms=block_ms,
            conditions=Conditions(engine, threads, str(example.device), dtype, precisions),
        )


def opened(network: Network, engine: str) -> nn.Module:
    """A network as it is timed: its plain part, or its file in an engine that reads it.

    Raises:
        InputError: If the engine cannot run its file.
    """
    if isinstance(network, str | os.PathLike):
        network = FileNetwork(network, engine=engine if engine in FILE_ENGINES else None)
    if isinstance(network, FileNetwork):
        refuse_other_reader(network.path, engine)
        return network
    return plain_part(unwrapped(network))
