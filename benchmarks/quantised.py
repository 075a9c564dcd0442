"""Files in int8 of all our networks, in ONNX Runtime and OpenVINO, as CSV: do they give what NNCF's own network gives?

    python benchmarks/quantised.py --cifar npz:cifar10.npz --photographs imagenet_sample/val \\
        --out benchmarks/results/quantised.csv

Each row: a network of random weights and one format. Half of the images give the ranges, the other half is checked:
`from_nncf` is the largest difference of the file's outputs from those of what `nncf.quantize`, called by nothing of
ours, makes of the same file in memory, over the largest output; `agreement` the share of images with the float32
network's first answer by the check at export, `agreement_of_file` the same of the file opened anew. Random weights make
answers that mean nothing: `output_error`, the mean squared difference over the outputs' variance, says more. Rows that
are there already are not made again.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from exported import networks, parsed
from rows import read_rows, write_rows
from torch import Tensor, nn

from ghostify import FileNetwork, deploy, export
from ghostify.inference.export import SUFFIX, write_onnx, write_openvino
from ghostify.measure.environment import describe_environment, sums_int8_exactly

# As NNCF's documentation has it.
IN_MEMORY = """
import os, sys
os.environ["NNCF_CI"] = "1"  # no report of its use
import nncf, numpy, onnx, onnxruntime, openvino
path, exact = sys.argv[1:]
ranges, checked = numpy.load("ranges.npy"), numpy.load("checked.npy")
fix = nncf.OverflowFix.DISABLE if exact == "True" else nncf.OverflowFix.ENABLE
usual = {"preset": nncf.QuantizationPreset.PERFORMANCE, "subset_size": len(ranges)}
usual["advanced_parameters"] = nncf.AdvancedQuantizationParameters(overflow_fix=fix)
items = [ranges[i : i + 1] for i in range(len(ranges))]
if path.endswith(".onnx"):
    made = nncf.quantize(onnx.load(path), nncf.Dataset([{"images": x} for x in items]), **usual)
    outputs = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"images": checked})[0]
else:
    core = openvino.Core()
    made = nncf.quantize(core.read_model(path), nncf.Dataset(items), **usual)
    outputs = core.compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([checked])[0]
numpy.save("outputs.npy", outputs)
"""


def main() -> None:
    arguments = parsed(__doc__)
    rows = read_rows(arguments.out)
    for name, model, images, formats in networks(arguments, rows):
        ranges, checked = images.chunk(2)
        for kind in formats:
            started = time.perf_counter()
            with TemporaryDirectory() as folder:
                file = Path(folder) / f"network.int8{SUFFIX[kind]}"
                report = export(model, file, checked[:1], format=kind, check=checked.split(16), int8=[ranges])
                network = FileNetwork(file)
                outputs = network(checked)
                same = (outputs.argmax(1) == first_answers(model, checked)).float().mean()
                wanted = in_memory(model, kind, ranges, checked, Path(folder))
            assert report.int8 is not None
            rows.append(
                {
                    "network": name,
                    "format": kind,
                    "engine": report.engine,
                    "images": report.images,
                    "layers": report.int8.layers,
                    "in_fp32": len(report.int8.in_fp32),
                    "from_nncf": f"{float((outputs - wanted).abs().max() / wanted.abs().max()):.1e}",
                    "agreement": f"{report.int8.agreement:.4f}",
                    "agreement_of_file": f"{float(same):.4f}",
                    "output_error": f"{report.int8.output_error:.1e}",
                    "mb_fp32": f"{report.int8.size_mb[0]:.2f}",
                    "mb_int8": f"{report.int8.size_mb[1]:.2f}",
                    "latency": f"{report.int8.latency.ratio:.3f}",
                    "latency_low": f"{report.int8.latency.ratio_low:.3f}",
                    "latency_high": f"{report.int8.latency.ratio_high:.3f}",
                    "overflow_fix": report.int8.overflow_fix,
                    "seconds": f"{time.perf_counter() - started:.0f}",
                    **describe_environment(),
                    "command": "python " + shlex.join(sys.argv),
                }
            )
            print(f"{name} {kind}: {rows[-1]['from_nncf']} from NNCF's, {rows[-1]['agreement']} agree", file=sys.stderr)
            write_rows(arguments.out, rows)


@torch.no_grad()
def first_answers(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model(part) for part in x.split(16)]).argmax(1)


def in_memory(model: nn.Module, kind: str, ranges: Tensor, checked: Tensor, folder: Path) -> Tensor:
    """Outputs of the network that NNCF makes of the file in float32, in the engine and without a file."""
    plain = folder / f"plain{SUFFIX[kind]}"
    (write_onnx if kind == "onnx" else write_openvino)(deploy(model, checked[:1]), plain, checked[:1])
    np.save(folder / "ranges.npy", ranges.numpy())
    np.save(folder / "checked.npy", checked.numpy())
    asked = [sys.executable, "-c", IN_MEMORY, str(plain), str(sums_int8_exactly())]
    subprocess.run(asked, cwd=folder, check=True, capture_output=True)
    return torch.from_numpy(np.load(folder / "outputs.npy"))


if __name__ == "__main__":
    main()
