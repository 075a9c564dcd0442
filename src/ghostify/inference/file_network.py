"""A network in an exported file, as a module."""

import json
import os
import weakref
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ghostify.errors import InputError, spelled
from ghostify.inference.engines import FILE_ENGINES, FileRunner, check_engine
from ghostify.inference.export import SUFFIX
from ghostify.wrappers import Closed

FilePrecision = Literal["fp32", "bf16"]
IN_FILES: tuple[FilePrecision, ...] = get_args(FilePrecision)
# The engine of each kind of file by default, and all that read it.
READERS = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",)}


class FileNetwork(Closed):
    """A network in an ONNX or OpenVINO file; its engine runs it on the CPU, in a process of its own.

    Args:
        path: The file; the note that ``export`` wrote beside it is read, too.
        engine: "onnxruntime" or "openvino"; None: ONNX Runtime for ``.onnx``, OpenVINO for ``.xml``.
        threads: CPU threads; None: as many as PyTorch has.
        precision: "fp32": the file as it is, with whatever it has in int8; "bf16": what is in float32 is computed in
            bf16.
    Attributes:
        about: The note that ``export`` wrote beside the file; empty where there is none.
    Raises:
        InputError: If there is no such file, or the engine cannot read its kind.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        engine: str | None = None,
        threads: int | None = None,
        precision: FilePrecision = "fp32",
    ) -> None:
        super().__init__()
        self.path = Path(path).absolute()
        if not is_exported(self.path):
            raise InputError(f"{self.path.name}: expected an exported file, which ends in {' or '.join(READERS)}")
        if not self.path.is_file():
            raise InputError(f"there is no file {path}")
        self.engine = engine or READERS[self.path.suffix][0]
        check_engine(self.engine, FILE_ENGINES)
        refuse_other_reader(self.path, self.engine)
        if precision not in IN_FILES:
            known = " or ".join(IN_FILES)
            raise InputError(f"{spelled('precision')} is {precision!r}: expected {known}; what is in int8 stays so")
        if threads is not None and (type(threads) is not int or threads < 1):
            raise InputError(f"{spelled('threads')} is {threads!r}: expected at least 1")
        self.threads, self.precision = threads, precision
        self.only_runs = (
            f"{self.path.name} is an exported file, which evaluate and compare take: expected the network that it was "
            "made of"
        )
        self.about = read_about(self.path)
        self.running: FileRunner | None = None
        self.train(False)

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of one input without batch; None where a size is free, and nothing beside the file says it."""
        own = self.runner.input_shape[1:]
        said = tuple(self.about.get("input", {}).get("shape", ())[1:])
        sizes = [size for size in (own if None not in own else said) if type(size) is int]
        return tuple(sizes) if len(sizes) == len(own) else None

    @property
    def runner(self) -> FileRunner:
        """The file in its engine, opened when it is first needed, and anew where its process is no more."""
        if self.running is None or not self.running.answers:
            threads = self.threads or torch.get_num_threads()
            self.running = FileRunner(self.path, self.engine, threads=threads, bf16=self.precision == "bf16")
            weakref.finalize(self, self.running.close)
        return self.running

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs for a batch ``[batch, channels, height, width]``, on its device.

        Raises:
            InputError: If the file takes inputs of another size, or its engine fails.
        """
        if not x.is_floating_point():
            raise InputError(f"{self.path.name} takes floating-point numbers, not {x.dtype}: normalise the images")
        wanted = self.runner.input_shape
        if len(wanted) != x.ndim or any(size not in (None, own) for size, own in zip(wanted, x.shape, strict=True)):
            sizes = ["batch" if size is None else size for size in wanted]
            raise InputError(f"{self.path.name} takes inputs {sizes}, not {list(x.shape)}")
        outputs = tuple(output.to(x.device) for output in self.runner.outputs(x))
        return outputs[0] if len(outputs) == 1 else outputs

    def __deepcopy__(self, memo: Any) -> "FileNetwork":
        """Another process for the same file."""
        return FileNetwork(self.path, engine=self.engine, threads=self.threads, precision=self.precision)

    def __reduce__(self) -> Any:
        return partial(FileNetwork, engine=self.engine, threads=self.threads, precision=self.precision), (self.path,)

    def extra_repr(self) -> str:
        return f"{self.path.name}, engine={self.engine!r}"


def refuse_other_reader(path: Path, engine: str) -> None:
    """Refuse an engine that does not read files of this kind."""
    readers = READERS[path.suffix]
    if engine not in readers:
        raise InputError(
            f"{path.name} cannot run in {engine}: expected {spelled('engine')} to be {' or '.join(readers)}"
        )


def is_exported(path: str | os.PathLike[str]) -> bool:
    """True for the name of an exported file."""
    return Path(path).suffix in READERS


def read_about(path: Path) -> dict[str, Any]:
    """The note that ``export`` wrote beside a file: its input, preprocessing and check.

    Raises:
        InputError: If something else lies there.
    """
    note = path.with_suffix(".json")
    if not note.exists():
        return {}
    try:
        about = json.loads(note.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{note} is not what export wrote beside {path.name}: {error}") from error
    if not is_note(about):
        raise InputError(
            f"{note} is not what export wrote beside {path.name}: expected an object with the input's shape and the "
            "preprocessing"
        )
    shared = ("input", "preprocessing")  # with a file of the other format and the same name
    own = SUFFIX.get(about.get("format", "")) in (path.suffix, None)
    return about if own else {part: about[part] for part in shared if part in about}


def is_note(about: Any) -> bool:
    """True for what ``export`` writes, or a part of it."""
    if not isinstance(about, dict) or not all(isinstance(about.get(p, {}), dict) for p in ("input", "preprocessing")):
        return False
    shape = about.get("input", {}).get("shape", [])
    classes = about.get("preprocessing", {}).get("classes", [])
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    return isinstance(shape, list) and named and isinstance(about.get("format", ""), str)
