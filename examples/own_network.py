"""A network of your own becomes a faster ONNX file: python examples/own_network.py --speedup 1.5

In the place of SmallNet and the digits stand your network and your images.
"""

import argparse

import onnxruntime
import small_net

import ghostify

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--speedup", type=float, default=1.5, help="how many times as fast")
parser.add_argument("--epochs", type=int, default=5, help="passes in which what was lost is learnt again")
parser.add_argument("--out", default="faster", help="folder for the files")
options = parser.parse_args()

train, test = small_net.digits()
network = small_net.trained(train, epochs=5)

# Batches with labels, as here, or without, or a reference such as "imagefolder:DIR". A tenth of them judges.
result = ghostify.run(
    network,
    list(train),
    target_speedup=options.speedup,
    tune=options.epochs,
    engine="onnxruntime",
    out=options.out,
)
print(*result.findings, sep="\n")
print(f"right of the test images: {small_net.accuracy(network, test):.1f} % before, ", end="")
print(f"{small_net.accuracy(result.model, test):.1f} % after; all figures: {result.report}")

# Whoever runs the file needs ONNX Runtime alone, neither PyTorch nor ghostify.
session = onnxruntime.InferenceSession(result.files[0])
images, labels = next(iter(test))
[scores] = session.run(None, {session.get_inputs()[0].name: images.numpy()})
print(f"{result.files[0]}: right for {(scores.argmax(1) == labels.numpy()).sum()} of {len(labels)} images")
