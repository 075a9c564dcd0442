"""A file on another machine: python device.py original.onnx network.onnx photographs/

Copied there with its `.json`, a file needs ONNX Runtime, NumPy and Pillow, neither PyTorch nor ghostify. The
`.json` says how photographs become inputs. The files are timed in turn, so that a machine that slows down slows both.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("original", type=Path)
parser.add_argument("faster", type=Path)
parser.add_argument("photographs", type=Path, help="folder of them")
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--calls", type=int, default=100, help="calls of each file that are timed")
options = parser.parse_args()


def session_of(file: Path) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    return onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])


def input_of(photograph: Path, height: int, width: int, note: dict) -> np.ndarray:
    """``[1, 3, height, width]``: the shorter side at 8/7 of what is cut out of the middle, normalised."""
    image = Image.open(photograph).convert("RGB")
    scale = round(max(height, width) * 8 / 7) / min(image.size)
    image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32) / 255
    return ((pixels - np.float32(note["mean"])) / np.float32(note["std"])).transpose(2, 0, 1)[None]


note = json.loads(options.faster.with_suffix(".json").read_text())
size = note["input"]["shape"][-2:]
files = sorted(path for path in options.photographs.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
inputs = [{note["input"]["name"]: input_of(file, *size, note["preprocessing"])} for file in files]
sessions = [session_of(options.original), session_of(options.faster)]

answers = [[int(session.run(None, x)[0].argmax()) for x in inputs] for session in sessions]
names = note["preprocessing"].get("classes")
for file, answer in zip(files, answers[1], strict=True):
    print(f"{file.name}: {names[answer] if names else answer}")
print(f"the same answer as the original's for {sum(map(int.__eq__, *answers))} of {len(files)} photographs")

ms = np.zeros((10 + options.calls, 2))  # the first ten warm up
for call in range(len(ms)):
    for index, session in enumerate(sessions):
        before = time.perf_counter()
        session.run(None, inputs[call % len(inputs)])
        ms[call, index] = 1000 * (time.perf_counter() - before)
original, faster = np.median(ms[10:], axis=0)
print(f"{original:.3f} ms and {faster:.3f} ms: {np.median(ms[10:, 0] / ms[10:, 1]):.2f} times as fast here")
