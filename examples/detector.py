"""A detector to a speed: python examples/detector.py --data 'coco:DIR?train=NAME&val=NAME' --speedup 1.5

Without --detector a small RetinaNet on a MobileNetV3 is trained first, which takes most of an hour for 200 images.
"""

import argparse
import dataclasses
from pathlib import Path

import ghostify

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", required=True, help="images with boxes, in COCO's layout")
parser.add_argument("--detector", help="file of a trained one, by ghostify.save")
parser.add_argument("--speedup", type=float, default=1.5, help="how many times as fast")
parser.add_argument("--epochs", type=int, default=12, help="passes in which what was lost is learnt again")
parser.add_argument("--out", type=Path, default=Path("detector"), help="folder for the files")
options = parser.parse_args()

data = ghostify.detect.load_coco(options.data)
recipe = ghostify.Recipe(epochs=60, batch_size=4, optimizer="adamw", lr=1e-3, weight_decay=0.01)
if options.detector:
    detector = ghostify.load(options.detector)
else:
    detector = ghostify.create_model(
        "retinanet_mobilenet_v3_large_fpn",
        num_classes=len(data.classes),
        fpn_channels=64,
        norm=True,
        min_size=240,
        max_size=320,
        smallest_anchor=16,
    )
    ghostify.detect.train(detector, data, recipe)

# A detector takes lists of images with values 0..1; no boxes are needed to plan and to convert.
photographs = [[data.train[index][0].float() / 255] for index in range(min(256, len(data.train)))]
example = detector.eval().transform(photographs[0])[0].tensors  # what backbone, pyramid and head get
plan = ghostify.plan(detector, example=example, calibration=photographs, target_speedup=options.speedup)
faster = ghostify.convert(detector, calibration=photographs, plan=plan).model

# It learns the original's maps and outputs; with a weight below 1 boxes, too.
teacher = ghostify.Teacher(detector, weight=1, hints=True)
tuning = dataclasses.replace(recipe, epochs=options.epochs, lr=3e-4, freeze_norm=True)
ghostify.detect.train(faster, data, tuning, teacher=teacher)

ghostify.save(faster, options.out / "faster.safetensors")
report = ghostify.export(faster, options.out / "faster.xml", example, format="openvino")
before, after = ghostify.detect.evaluate(detector, data), ghostify.detect.evaluate(faster, data, file=report.path)
print(f"AP50 {100 * before.ap50:.1f} % before, {100 * after.ap50:.1f} % after")
print(ghostify.compare(detector, report.path, example, engine="openvino").verdict())
for picture in ghostify.detect.predict(faster, data.test.annotations.folder, out=options.out / "found"):
    print(f"{picture.path.name}: {picture.summary}")
