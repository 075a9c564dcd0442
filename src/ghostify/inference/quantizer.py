"""Quantisation of a file by NNCF, in a worker's process (``worker.py``).

Imports nothing of ours: ``quantize.py`` asks.
"""

import importlib
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np

JUDGED_AT_ONCE = 50  # images

Judges = tuple[Any, Any]  # inputs and labels, as arrays


class Onnx:
    """ONNX files, with quantisers as pairs of QuantizeLinear and DequantizeLinear."""

    def __init__(self) -> None:
        self.onnx: Any = importlib.import_module("onnx")

    def read(self, path: str) -> Any:
        return self.onnx.load(path)

    def write(self, model: Any, path: str) -> None:
        self.onnx.save(model, path)

    def inputs(self, model: Any, x: Any) -> Any:
        return {model.graph.input[0].name: x}

    def ready(self, model: Any) -> Any:
        """A model as NNCF hands it over to be judged."""
        return model

    def session(self, model: Any) -> Any:
        """A function of a batch that gives the first output."""
        runtime: Any = importlib.import_module("onnxruntime")
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: session.run(None, {name: x})[0]

    def is_quantised(self, model: Any) -> bool:
        return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node)

    def layers(self, model: Any) -> dict[str, bool]:
        """Operators with weights, by name; True where these are quantised."""
        constants = {tensor.name for tensor in model.graph.initializer}
        scaled = {
            node.output[0]
            for node in model.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in constants
        }
        found = {}
        for node in model.graph.node:
            if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Einsum"):
                weights = [value for value in node.input[:2] if value in constants or value in scaled]
                if weights:
                    found[node.name] = any(value in scaled for value in weights)
        return found


class OpenVino:
    """OpenVINO models, with quantisers as FakeQuantize."""

    def __init__(self) -> None:
        self.library: Any = importlib.import_module("openvino")

    def read(self, path: str) -> Any:
        return self.library.Core().read_model(path)

    def write(self, model: Any, path: str) -> None:
        self.library.save_model(model, path, compress_to_fp16=False)

    def inputs(self, model: Any, x: Any) -> Any:
        return x

    def ready(self, model: Any) -> Any:
        return self.library.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def session(self, model: Any) -> Any:
        request = model.create_infer_request()
        return lambda x: request.infer([x], share_inputs=True)[0]

    def is_quantised(self, model: Any) -> bool:
        return any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())

    def layers(self, model: Any) -> dict[str, bool]:
        found = {}
        for node in model.get_ops():
            kind = node.get_type_name()
            if "Convolution" in kind or kind in ("MatMul", "Einsum") or kind.startswith(("LSTM", "GRU", "RNN")):
                sources = [self.behind(value) for value in node.input_values()]
                weights = [source for source in sources if "Parameter" not in source]
                if weights:
                    found[node.get_friendly_name()] = any(w & {"FakeQuantize", "i8", "u8"} for w in weights)
        return found

    def behind(self, value: Any) -> set[str]:
        """Kinds and types of all that an input is made of, until one of the network's inputs is among them."""
        found: set[str] = set()
        todo, seen = [value.get_node()], set()
        while todo and "Parameter" not in found:
            source = todo.pop()
            if source.get_friendly_name() in seen:
                continue
            seen.add(source.get_friendly_name())
            found |= {source.get_type_name(), source.get_output_element_type(0).get_type_name()}
            todo += [value.get_node() for value in source.input_values()]
        return found


FORMATS: dict[str, Callable[[], Any]] = {"onnxruntime": Onnx, "openvino": OpenVino}


def quantize(
    engine: str, path: str, images: str, out: str, overflow_fix: bool, judges: list[str] | None, max_drop: float | None
) -> dict[str, Any]:
    """Quantise a file for an engine.

    Args:
        engine: "onnxruntime" or "openvino".
        path: The file; OpenVINO reads ONNX, too.
        images: An array's file, the inputs whose ranges are taken.
        out: File to write, of the engine's own format.
        overflow_fix: Let weights use half of their range, for processors whose sums of two products overflow.
        judges: Files of two arrays, inputs and labels; None without ``max_drop``.
        max_drop: Share of right answers that may be lost.
    Returns:
        ``already``: True where the file is quantised as it is, and nothing is written; else ``layers``: those with
        weights, True where these are quantised; ``lost``: the share of right answers that was lost, None without
        ``max_drop``.
    """
    os.environ["NNCF_CI"] = "1"  # else it reports its use to its makers
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # no CUDA toolkit beside no GPU
    nncf: Any = importlib.import_module("nncf")
    advanced: Any = importlib.import_module("nncf.quantization.advanced_parameters")
    nncf.set_log_level(40)
    format_of = FORMATS[engine]()
    model = format_of.read(path)
    if format_of.is_quantised(model):
        return {"already": True}
    seen = np.load(images, mmap_mode="r")
    shown = nncf.Dataset([format_of.inputs(model, np.array(seen[i : i + 1])) for i in range(len(seen))])
    fix = advanced.OverflowFix.ENABLE if overflow_fix else advanced.OverflowFix.DISABLE
    parameters = advanced.AdvancedQuantizationParameters(overflow_fix=fix)
    usual = {"preset": nncf.QuantizationPreset.PERFORMANCE, "subset_size": len(seen)}
    lost = None
    with redirect_stdout(StringIO()):  # its progress
        if max_drop is None:
            made = nncf.quantize(model, shown, advanced_parameters=parameters, **usual)
        else:
            inputs, labels = (np.load(file, mmap_mode="r") for file in judges or ())
            starts = range(0, len(inputs), JUDGED_AT_ONCE)
            parts = [(np.array(inputs[i : i + JUDGED_AT_ONCE]), labels[i : i + JUDGED_AT_ONCE]) for i in starts]

            def accuracy(candidate: Any, items: Iterable[Judges]) -> tuple[float, list[float]]:
                session = format_of.session(candidate)
                right = [(session(x).argmax(1) == y).astype(float) for x, y in items]
                return float(np.concatenate(right).mean()), [float(part.mean()) for part in right]

            made = nncf.quantize_with_accuracy_control(
                model,
                shown,
                nncf.Dataset(parts, lambda part: format_of.inputs(model, part[0])),
                accuracy,
                max_drop=max_drop,
                drop_type=nncf.DropType.ABSOLUTE,
                advanced_quantization_parameters=parameters,
                **usual,
            )
            before, after = (accuracy(format_of.ready(each), parts)[0] for each in (model, made))
            lost = before - after
    layers = format_of.layers(made)
    format_of.write(made, out)
    return {"already": False, "layers": layers, "lost": lost}
