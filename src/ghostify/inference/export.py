"""A network as a file for other engines, checked."""

import json
import os
import re
import warnings
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_leaves

from ghostify.atomic import check_writable, replacing
from ghostify.errors import InputError, first_sentence, spelled
from ghostify.hooks import hooked
from ghostify.inference.deploy import (
    Deployed,
    DeployedGhost,
    Form,
    check_example,
    copied,
    deploy,
    difference,
    named,
    outputs_of,
    unlogged,
)
from ghostify.inference.engines import module_version
from ghostify.inference.in_int8 import Int8Report, checked_in_int8
from ghostify.inference.onnx_decompositions import with_known_operators
from ghostify.inference.onnx_operators import suit_onnxruntime_
from ghostify.inference.parity import Checked, device_of, file_parity
from ghostify.inference.quantize import Int8
from ghostify.modes import evaluating
from ghostify.needed import refuse_missing
from ghostify.plain_part import plain_part
from ghostify.structure.surgery import tensors_in
from ghostify.wrappers import unwrapped

Format = Literal["onnx", "openvino"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIX = {"onnx": ".onnx", "openvino": ".xml"}
ENGINE = {"onnx": "onnxruntime", "openvino": "openvino"}
# Of the largest output. Float32 kernels that add in another order differ by 1e-6 to 1e-5 after fifty layers, float16
# ones by 1e-3 to 5e-3, as an engine rounds sums to it in other places; a wrong operator differs by far more.
TOLERANCE = 1e-3
HALF_TOLERANCE = 2e-2
# What rounding in float32 does to a network itself may be more than that, as where BatchNorm divides by little: then a
# file may differ by so many times as much, at most by the larger tolerance.
ROUNDINGS = 4
EXACT = 1e-8  # in float64
# The name of an operator that OpenVINO numbered, such as Constant_12 or Reshape_8779; ours have a layer's in them.
COUNTED = re.compile(r"[A-Z]\w*_\d+")


@dataclass(frozen=True)
class ExportReport:
    """The check of an exported file.

    Args:
        path: The file; OpenVINO's weights lie beside it, and for both a ``.json`` with what users must know.
        engine: Engine that ran it for the check.
        input_shape: Shape of the file's inputs without batch, which is free.
        images: How many were checked.
        difference: The largest of an output, over the largest output of its kind.
        rounding: The same that rounding alone does to the network; None where that is not needed.
        agreement: Share of images with the same first answer, 0..1; None where outputs are not ``[batch, classes]``.
        top1_before: Share of right first answers of the network, where all images had labels.
        top1_after: The same of the file in float32.
        ghosts: Form of each ghost layer in the file.
        int8: Costs and gains of int8; None for a file in float32.
    """

    path: Path
    format: Format
    engine: str
    input_shape: tuple[int, ...]
    images: int
    difference: float
    rounding: float | None
    agreement: float | None
    top1_before: float | None
    top1_after: float | None
    ghosts: tuple[DeployedGhost, ...]
    int8: Int8Report | None = None


def export(  # noqa: PLR0913  # the front door: the promised names, each a setting of the user's
    model: nn.Module,
    path: str | os.PathLike[str],
    example: Tensor,
    *,
    format: Format = "onnx",
    check: Iterable[Checked] | None = None,
    tolerance: float | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    forms: Mapping[str, Form] | None = None,
    int8: Iterable[Checked] | Int8 | Literal[False] | None = None,
) -> ExportReport:
    """Write a network as a file for ONNX Runtime or OpenVINO, and check that the file gives the same.

    The network is deployed first (see ``deploy``) unless it is so already. Of a detector the plain part is written:
    what chooses boxes among its outputs stays outside (``ghostify.plain_part.finish``). The file takes any batch of the
    example's height and width. Where the check fails nothing is left behind. In the check the network computes on the
    device that it is on, the file on the CPU by as many threads as PyTorch has.

    Args:
        path: Ends in ``.onnx``, or in ``.xml`` for OpenVINO.
        example: A batch ``[batch, channels, height, width]`` in the network's data type, in which the file takes its
            inputs, too: float32, float16 or what the engine computes in.
        check: Batches as the network gets them, or pairs of these and labels ``[batch]``, as of a ``DataLoader``;
            None: the example, and for int8 the images that give the ranges.
        tolerance: Largest difference of an output that is still rounding, over the largest output of its kind; None:
            0.001, of a network with weights in float16 0.02, of one that rounds more by itself four times as much.
        preprocessing: JSON values to write beside it: how images become inputs, the names of the classes.
        forms: Forms of ghost layers, as ``deploy`` takes them; for a network that is not deployed yet.
        int8: Batches such as the network will see, some hundreds of images: the file computes in int8, and the report's
            ``int8`` says what that costs and gains beside float32; or an ``Int8`` with what accuracy may be lost.
    Raises:
        InputError: If the network cannot be exported, or its file does not give the same.
    """
    target = Path(path)
    if format not in FORMATS:
        raise InputError(f"{spelled('format')} is {format!r}: expected one of {', '.join(FORMATS)}")
    if target.suffix != SUFFIX[format]:
        other = "".join(f", or {spelled('format', kind)}" for kind in FORMATS if SUFFIX[kind] == target.suffix)
        raise InputError(f"{target.name}: expected a name that ends in {SUFFIX[format]}{other}")
    check_example(example)
    refuse_unwritable(target)
    quantised = None if int8 is False else int8 if isinstance(int8, Int8 | None) else Int8(int8)
    if quantised is not None:
        refuse_missing("nncf", needed_by="int8")
    model = plain_part(unwrapped(model))
    example, on_cpu = example.cpu(), model if device_of(model).type == "cpu" else copied(model).cpu()
    deployed = on_cpu if isinstance(on_cpu, Deployed) else deploy(on_cpu, example, forms=forms)
    types = types_in(deployed, example)
    if torch.bfloat16 in types:  # ONNX Runtime has no convolution in it, NumPy no array
        raise InputError(
            f"the network computes in bfloat16, in which {ENGINE[format]} takes no network: expected one in "
            "float32, as model.float() makes it, without torch.autocast; an engine computes in bfloat16 by itself"
        )
    if quantised is not None and types != {torch.float32}:
        raise InputError("a network is quantised from float32: expected one in it, as model.float() makes it")
    with kept_if_done(target.parent), TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        made, plain = Path(folder) / target.name, Path(folder) / "fp32" / target.name
        plain.parent.mkdir()
        (write_onnx if format == "onnx" else write_openvino)(deployed, plain, example)
        try:
            in_int8 = None
            if quantised is None:
                move_together(plain, made)
                found = file_parity(model, made, ENGINE[format], [example] if check is None else check, example)
            else:
                found, in_int8 = checked_in_int8(model, plain, made, quantised, check, example, ENGINE[format])
        except InputError as error:
            if types <= {torch.float32}:
                raise
            raise InputError(f"{error}; expected a network in float32, as model.float() makes it") from error
        allowed, rounding = tolerance, None
        if allowed is None:
            allowed = HALF_TOLERANCE if torch.float16 in types else TOLERANCE
            if found.difference > allowed and types == {torch.float32} and found.worst is not None:
                rounding = rounding_of(on_cpu, deployed, found.worst)
                allowed = max(allowed, min(HALF_TOLERANCE, ROUNDINGS * rounding))
        report = ExportReport(
            target,
            format,
            ENGINE[format],
            tuple(example.shape[1:]),
            found.images,
            found.difference,
            rounding,
            found.agreement,
            *found.top1,
            ghosts=deployed.ghosts,
            int8=in_int8,
        )
        refuse_difference(report, allowed)
        note = made.with_suffix(".json")
        note.write_text(json.dumps(describe(report, example, dict(preprocessing or {})), indent=1))
        rmtree(plain.parent)
        move_together(made, target)
    return report


def refuse_unwritable(target: Path) -> None:
    """Refuse a path where no file can be written, before there is one to be written."""
    beside = (target.with_suffix(suffix).name for suffix in (".bin", ".json"))
    try:
        check_writable(target.parent, target.name, *beside)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error}") from error


@contextmanager
def kept_if_done(folder: Path) -> Iterator[None]:
    """Make a folder where it is missing; what was made for it goes again where the block fails."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):  # something else was put there
                path.rmdir()
        raise


def move_together(made: Path, target: Path) -> None:
    """Put a file and all that lies beside it in place of the old ones, itself last."""
    beside = [file for file in made.parent.iterdir() if file != made]
    with ExitStack() as stack:  # which ends in the reverse order
        for file in (made, *beside):
            file.replace(stack.enter_context(replacing(target.with_name(file.name))))


def write_onnx(model: nn.Module, path: Path, example: Tensor, *, engine: str = "onnxruntime") -> None:
    """Write a network as it is to ``path``, for any batch.

    Args:
        engine: That it is for: with "onnxruntime" some operators are others that this runs faster.
    Raises:
        InputError: If PyTorch cannot export it.
    """
    x = example.detach()
    if len(x) == 1:  # a size of 1 would be taken for a constant
        x = x.expand(2, *x.shape[1:]).contiguous()
    with evaluating(model), hooked([model], after=tensors_only), unlogged(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, of its own parts
        try:
            program = onnx_program(model, x)
        except ModuleNotFoundError:  # onnx and onnxscript are an extra
            raise
        except Exception as error:  # the exporter runs the network's own code, which may raise anything
            raise InputError(f"{type(model).__name__} cannot be exported: {first_sentence(cause(error))}") from error
    assert program is not None
    if engine == "onnxruntime":
        suit_onnxruntime_(program.model.graph)
    name_by_layer_(program.model.graph, {name for name, _ in model.named_modules()})
    without_traces_(program.model)
    without_unused_(program.model.graph)
    program.save(str(path))


def onnx_program(model: nn.Module, x: Tensor) -> Any:
    """A network as torch.onnx has it; with operators that it does not know in others."""
    dynamic_shapes = ({0: Dim("batch")},)
    written = partial(
        torch.onnx.export, dynamo=True, input_names=["images"], dynamic_shapes=dynamic_shapes, verbose=False
    )
    try:
        return written(model, (x,))
    except ModuleNotFoundError:
        raise
    except Exception:  # the exporter's, of any kind; raised again below where there is no other way
        program = torch.export.export(model, (x,), dynamic_shapes=dynamic_shapes)
        known = with_known_operators(program)
        if known is program:
            raise
        return written(known)


def tensors_only(_: nn.Module, __: Any, outputs: Any) -> Any:
    """The outputs of a network without what a file cannot hold: numbers, such as sizes, and text."""
    others = [leaf for leaf in tree_leaves(outputs) if leaf is not None and not isinstance(leaf, Tensor)]
    return tuple(tensors_in(outputs)) if others else outputs


def cause(error: BaseException) -> BaseException:
    """The error at the beginning of a chain: the exporter wraps each in what it was about."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def name_by_layer_(graph: Any, modules: Container[str]) -> None:
    """Call nodes ``layer/operator_number``, after the module whose weights they take or whose maps they go on with.

    Engines name their operators after these.
    """
    layers: dict[Any, str] = {}
    for index, node in enumerate(graph):
        values = [value for value in node.inputs if value is not None]
        owners = [value.name.rpartition(".")[0] for value in values if value.is_initializer()]
        layer = next((name for name in owners if name and name in modules), None)
        if layer is None:
            layer = next((layers[value] for value in values if value in layers), "input")
        node.name = f"{layer}/{node.op_type}_{index}"
        for number, value in enumerate(node.outputs):
            layers[value] = layer
            if not value.is_graph_output():
                value.name = node.name if number == 0 else f"{node.name}:{number}"


def without_unused_(graph: Any) -> None:
    """Take out constants that nothing takes: ONNX Runtime warns of each when it opens the file."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def without_traces_(model: Any) -> None:
    """Take out where in the sources each operator comes from: paths of this machine, and other ones in each export."""
    nodes = list(model.graph.all_nodes())
    for part in (model, model.graph, *nodes):
        part.metadata_props.clear()
    for node in nodes:
        for value in node.outputs:
            value.metadata_props.clear()


def write_openvino(model: nn.Module, path: Path, example: Tensor) -> None:
    """Write a network as it is to ``path`` and its weights beside it, in the network's data type.

    Raises:
        InputError: If PyTorch cannot export it, or OpenVINO not take it.
    """
    openvino = import_module("openvino")
    with TemporaryDirectory() as folder:
        onnx = Path(folder) / "network.onnx"
        write_onnx(model, onnx, example, engine="openvino")
        try:
            converted = openvino.convert_model(onnx)
            name_by_place_(converted)
            openvino.save_model(converted, path, compress_to_fp16=False)
        except Exception as error:  # its own kinds, of an operator that it does not have
            raise InputError(f"openvino cannot take {type(model).__name__}: {first_sentence(error)}") from error


def name_by_place_(model: Any) -> None:
    """Call operators after their place that OpenVINO named by a counter, which goes on from file to file."""
    for place, node in enumerate(model.get_ordered_ops()):
        if COUNTED.fullmatch(node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name().lower()}/{place}")


@torch.no_grad()
def rounding_of(model: nn.Module, deployed: Deployed, x: Tensor) -> float:
    """The difference that rounding in float32 makes to a network: as it is or deployed, the larger one.

    Returns:
        The largest difference of an output, over the largest output of its kind; 0 where that cannot be told, or where
        the deployed network is another function in float64.
    """
    wide = copied(model).double()
    try:
        with evaluating(model, wide):
            exact = outputs_of(wide, x.double())
            deployed_wide = wide if isinstance(wide, Deployed) else deploy(wide, x[:1].double())
            if difference(exact, outputs_of(deployed_wide, x.double())) > EXACT:
                return 0.0
            return max(difference(exact, outputs_of(network, x)) for network in (model, deployed))
    except Exception:  # noqa: BLE001  # a network's own code need not take float64
        return 0.0


def types_in(deployed: Deployed, example: Tensor) -> set[torch.dtype]:
    """The floating-point types of a network's weights, of its input, and of what it makes of both by the way."""
    held = {tensor.dtype for tensor in (*deployed.parameters(), *deployed.buffers(), example)}
    made = {value for node in deployed.network.graph.nodes for value in tree_leaves((node.args, dict(node.kwargs)))}
    return {value for value in held | made if isinstance(value, torch.dtype) and value.is_floating_point}


def refuse_difference(report: ExportReport, tolerance: float) -> None:
    if not report.difference <= tolerance:
        raise InputError(
            f"{report.path.name} does not give what the network gives: outputs differ by {report.difference:.1e} of "
            f"the largest in {report.engine}, {tolerance:.0e} would be rounding; the file is not kept"
        )


def describe(report: ExportReport, example: Tensor, preprocessing: dict[str, Any]) -> dict[str, Any]:
    """The facts that users of the file must know, as JSON values."""
    return {
        "format": report.format,
        "input": {"name": "images", "shape": ["batch", *example.shape[1:]], "dtype": named(example.dtype)},
        "preprocessing": preprocessing,
        "check": {
            "engine": report.engine,
            "images": report.images,
            "difference": report.difference,
            "rounding": report.rounding,
            "agreement": report.agreement,
            "top1_before": report.top1_before,
            "top1_after": report.top1_after,
        },
        "int8": None if report.int8 is None else asdict(report.int8),
        "versions": {name: module_version(name) for name in ("ghostify", "torch", "onnx", "onnxscript", report.engine)},
    }
