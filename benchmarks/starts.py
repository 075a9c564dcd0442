"""MobileNetV2 from ImageNet weights without BatchNorms, made ready to be learnt on: a classifier, and a segmenter.

    python benchmarks/starts.py mobilenet_v2.pth --data imagefolder:flowers --out starts/
    PYTHONPATH=benchmarks ghostify segment train starts:lraspp_mobilenet_v2 --weights starts/lraspp.safetensors …

The statistics of BatchNorms that were folded away are estimated on photographs; what the network gives stays the same.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from rivals import unfold_norms_
from safetensors.torch import save_file
from torchvision.models import mobilenet_v2
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.lraspp import LRASPP

from ghostify import create_model
from ghostify.data import load_data
from ghostify.data.sample import draw_inputs
from ghostify.models.weights import load_weights_

FINE, DEEP = "6", "18"  # torchvision's names of the features at an eighth and at a thirty-second of the image
IMAGES, BATCH = 256, 32


def lraspp_mobilenet_v2() -> LRASPP:
    """An LRASPP for two classes, built on MobileNetV2 as torchvision's is on MobileNetV3-Large."""
    features = mobilenet_v2(weights=None).features
    backbone = IntermediateLayerGetter(features, {FINE: "low", DEEP: "high"})
    return LRASPP(backbone, low_channels=32, high_channels=1280, num_classes=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", required=True, help="photographs, such as imagefolder:DIR")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    data = replace(load_data(arguments.data, image_size=224), mean=(0.5,) * 3, std=(0.5,) * 3)
    images = torch.cat(draw_inputs(data, IMAGES))
    classifier = load_weights_(create_model("torchvision:mobilenet_v2"), arguments.weights).eval()
    before = classifier(images[:BATCH]).detach()
    unfold_norms_(classifier, images.split(BATCH))
    assert torch.allclose(before, classifier(images[:BATCH]), atol=1e-2), "what the network gives has changed"
    segmenter = lraspp_mobilenet_v2()
    features = {name.removeprefix("features."): value for name, value in classifier.features.state_dict().items()}
    segmenter.backbone.load_state_dict(features)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_file(classifier.state_dict(), arguments.out / "mobilenet_v2.safetensors")
    save_file(segmenter.state_dict(), arguments.out / "lraspp.safetensors")


if __name__ == "__main__":
    main()
