"""A network in eight bits, beside its file in float32: python examples/int8.py

Quantised after training by NNCF, without labels; what that costs and gains is measured here.
"""

import argparse
from pathlib import Path

import small_net

import ghostify

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--format", choices=["onnx", "openvino"], default="openvino")
parser.add_argument("--max-accuracy-drop", type=float, help="points that may be lost: layers go back to float32")
parser.add_argument("--out", type=Path, default=Path("int8"), help="folder for the file")
options = parser.parse_args()

train, test = small_net.digits()
network = small_net.trained(train, epochs=5)
inputs = [images for images, _labels in train]  # give the ranges of all maps
# Images with labels, apart from those, judge what may be lost.
judges = list(test)[:4]

report = ghostify.export(
    network,
    options.out / ("network.int8.onnx" if options.format == "onnx" else "network.int8.xml"),
    inputs[0][:1],
    format=options.format,
    int8=ghostify.Int8(inputs, options.max_accuracy_drop, judges if options.max_accuracy_drop else None),
    check=list(test)[4:],
)
int8 = report.int8
print(f"{report.path}: right for {100 * int8.top1:.1f} %, in float32 {100 * report.top1_after:.1f} %")
print(f"{1 / int8.latency.ratio:.2f} times as fast, {int8.size_mb[1]:.2f} MB instead of {int8.size_mb[0]:.2f}")
print(f"layers left in float32: {', '.join(int8.in_fp32) or 'none'}", int8.lost, sep="\n")

# The file is a network: it is scored, and compared with others, as one.
file = ghostify.FileNetwork(report.path)
print(f"the file alone: right for {small_net.accuracy(file, test):.1f} % of all test images")
print(ghostify.compare(network, report.path, inputs[0][:1], engine=report.engine).verdict())
