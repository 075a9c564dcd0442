"""The pictures of docs/gallery.md: maps of four networks on one photograph, and of a network beside its ghost.

    python benchmarks/gallery.py --resnet56 resnet56.th --mobilenet-v2 mobilenet_v2.pth --photographs imagefolder:DIR \\
        --out docs/gallery

VGG-16 learns handwritten digits first and GhostNet the photographs, from random weights: some minutes each.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch import Tensor, nn

from ghostify import convert, create_model, load, save
from ghostify.allocator import keep_freed_memory
from ghostify.data import ImageData, load_data
from ghostify.data.augment import normalise
from ghostify.data.photograph import SAMPLE, photograph
from ghostify.data.sample import draw_inputs
from ghostify.jobs.evaluate import evaluate
from ghostify.jobs.look import look
from ghostify.jobs.look_page import write_look
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import train
from ghostify.network_file import open_network

COLOURS = 96  # of a small picture


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resnet56", type=Path, required=True, help="weights, of CIFAR-10")
    parser.add_argument("--mobilenet-v2", type=Path, required=True, help="weights, of ImageNet, for mean and std 0.5")
    parser.add_argument("--photographs", required=True, help="imagefolder:DIR that GhostNet learns")
    parser.add_argument(
        "--made", type=Path, default=Path("gallery-networks"), help="folder that keeps what was trained"
    )
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    digits = load_data("digits")
    photographs = load_data(arguments.photographs)
    vgg = trained(
        "vgg16_cifar", digits, Recipe(epochs=6, batch_size=64, lr=0.05), arguments.made / "vgg16_digits.safetensors"
    )
    ghostnet = trained(
        "ghostnet_100",
        photographs,
        Recipe(epochs=20, batch_size=16, optimizer="adamw", lr=0.001),
        arguments.made / "ghostnet_photographs.safetensors",
    )
    half = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    told = {
        "vgg16": draw("VGG-16", vgg, digits, arguments.out, 32),
        "resnet56": draw("ResNet-56", open_network("resnet56", weights=arguments.resnet56), digits, arguments.out, 32),
        "ghostnet": draw("GhostNet", ghostnet, photographs, arguments.out, 224),
        "mobilenet_v2": draw(
            "MobileNetV2",
            open_network("torchvision:mobilenet_v2", weights=arguments.mobilenet_v2),
            replace(photographs, **half),
            arguments.out,
            224,
        ),
    }
    ghost = convert(vgg, cheap="pointwise", calibration=draw_inputs(digits, 1024), effort="fast").model
    told["vgg16 beside its ghost"] = draw("VGG-16", vgg, digits, arguments.out, 32, ghost)
    told["vgg16 beside its ghost"]["top1"] = [evaluate(net, digits.test, digits).top1 for net in (vgg, ghost)]
    told["ghostnet"]["top1"] = evaluate(ghostnet, photographs.test, photographs).top1
    print(json.dumps(told, indent=2))


def trained(name: str, data: ImageData, recipe: Recipe, file: Path) -> nn.Module:
    """The network from random weights, or as the file has it."""
    if file.exists():
        return load(file)
    torch.manual_seed(0)
    network = create_model(name, num_classes=len(data.classes))
    train(network, data, recipe)
    save(network, file, extra=data.preprocessing)
    return network.eval().to(memory_format=torch.contiguous_format)


def draw(
    title: str, network: nn.Module, data: ImageData, out: Path, size: int, ghost: nn.Module | None = None
) -> dict[str, object]:
    """Put the picture of the network's first stage, or of its ghost beside it, into the folder; what it shows."""
    x: Tensor = normalise(photograph(None, size, size), data.mean, data.std)
    (layer, *_) = look(network, x, against=ghost)
    with TemporaryDirectory() as folder:
        write_look(Path(folder), [layer], title=title, image=SAMPLE, against=None if ghost is None else "its ghost")
        name = "look.png" if ghost is None else "against.png"
        out.mkdir(parents=True, exist_ok=True)
        file = out / f"{title.lower().replace('-', '')}{'' if ghost is None else '_ghost'}.png"
        with Image.open(Path(folder) / name) as picture:
            picture.convert("RGB").quantize(COLOURS).save(file, optimize=True)
    explained = {way: round(share, 3) for way, share in layer.explained_by_half().items()}
    errors = {d: round(partners.error[~layer.constant].median().item(), 3) for d, partners in layer.partners.items()}
    return {
        "layer": layer.name,
        "maps": tuple(layer.maps.shape),
        "half of the maps explain": explained,
        "median of what the best filter leaves": errors,
    }


if __name__ == "__main__":
    main()
