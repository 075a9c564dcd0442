"""Networks learn a class for each pixel, and are scored as the masks say."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_masks import CLASSES, HEIGHT, WIDTH, make_masks
from PIL import Image
from tiny_segmenter import UNet, WithAux
from torch import Tensor, nn

from ghostify import InputError, Recipe, Teacher, convert, create_model, export, load, plan, segment
from ghostify.cli import cli, main
from ghostify.data.augment import normalise
from ghostify.data.masks import IGNORED, load_masks
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.segment import MaskScore, draw_masked_inputs, evaluate_segmenter, train_segmenter

SIDE = 32
RECIPE = Recipe(epochs=2, batch_size=4, optimizer="adamw", lr=5e-3, precision="fp32")
UNET = "tiny_segmenter:UNet"


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_masks(tmp_path_factory.mktemp("masks"))


class Painted(nn.Module):
    """Knows the classes by their colours."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.full_like(x[:, 0], 0.0), x[:, 1], x[:, 2]], 1)


def test_both_layouts_say_the_same(references: tuple[str, str]) -> None:
    voc, coco = (load_masks(reference, image_size=SIDE, hold_out=0.2) for reference in references)
    assert voc.classes == coco.classes == CLASSES
    assert voc.val is not None
    assert [len(part) for part in (voc.train, voc.val, voc.test)] == [8, 2, 4]
    for one, other in zip(voc.test, coco.test, strict=True):
        assert one[0].shape == (1, 3, SIDE, SIDE)
        assert torch.equal(one[0], other[0])
        # Polygons have their edges between pixels.
        assert (one[1] == other[1]).float().mean() > 0.95
        assert set(one[1].unique().tolist()) <= {0, 1, 2}


def test_a_random_part_of_an_image_has_its_own_masks(references: tuple[str, str]) -> None:
    data = load_masks(references[0], image_size=SIDE)
    torch.manual_seed(0)
    drawn = [data.train[0] for _ in range(8)]
    assert len({pixels.sum().item() for pixels, _ in drawn}) > 1
    for pixels, classes in drawn:
        bright, bar = pixels[0, 1] > 110, classes[0] == 1
        assert (bright & bar).sum() > 0.6 * (bright | bar).sum(), "but for pixels at its edges"


def test_other_categories_are_background(references: tuple[str, str]) -> None:
    data = load_masks(references[1] + "&classes=block", image_size=SIDE)
    assert data.classes == ("background", "block")
    _, classes = data.test[0]
    _, all_classes = load_masks(references[1], image_size=SIDE).test[0]
    assert torch.equal(classes, (all_classes == 2).long())


def test_the_score_counts_pixels(references: tuple[str, str]) -> None:
    data = load_masks(references[0], image_size=SIDE)
    score = evaluate_segmenter(Painted(), data.test, data)
    pixels, classes = (torch.cat(parts) for parts in zip(*data.test, strict=True))
    found = Painted()(normalise(pixels, data.mean, data.std)).argmax(1)
    for number, name in enumerate(CLASSES):
        both, either = (found == number) & (classes == number), (found == number) | (classes == number)
        assert score.ious[name] == pytest.approx(both.sum().item() / either.sum().item())
    assert score.images == 4
    assert score.pixel_accuracy == pytest.approx((found == classes).float().mean().item())
    assert score.numbers()["mean_iou"] == np.mean(list(score.ious.values()))


def test_pixels_that_do_not_count_are_not_asked_about_nor_learnt(tmp_path: Path) -> None:
    voc, _ = make_masks(tmp_path)
    for file in (tmp_path / "SegmentationClass").iterdir():
        mask = np.array(Image.open(file))
        mask[:, : WIDTH // 2] = IGNORED
        Image.fromarray(mask).save(file)
    data = load_masks(voc, image_size=SIDE)
    score = evaluate_segmenter(Painted(), data.test, data)
    assert np.sum(score.counts) == sum((classes != IGNORED).sum().item() for _, classes in data.test) < 4 * SIDE**2
    history = train_segmenter(UNet(), data, RECIPE)
    assert all(np.isfinite(epoch.train_loss) for epoch in history)
    for file in (tmp_path / "SegmentationClass").iterdir():
        Image.fromarray(np.full((HEIGHT, WIDTH), IGNORED, np.uint8)).save(file)
    with pytest.raises(InputError, match="no pixel of these images"):
        evaluate_segmenter(Painted(), data.test, data)


def test_crowds_do_not_count(tmp_path: Path) -> None:
    _, coco = make_masks(tmp_path)
    file = tmp_path / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    runs = [0, HEIGHT, (WIDTH - 1) * HEIGHT]  # the first column
    crowd = {"size": [HEIGHT, WIDTH], "counts": runs}
    content["annotations"].append(
        {
            "id": 99,
            "image_id": 0,
            "category_id": 3,
            "bbox": [0, 0, 1, HEIGHT],
            "segmentation": crowd,
            "iscrowd": 1,
        }
    )
    file.write_text(json.dumps(content))
    mask = load_masks(coco, image_size=SIDE).test.masks[0].read(HEIGHT, WIDTH)
    assert (mask[:, 0] == IGNORED).all()
    assert not (mask[:, 1:] == IGNORED).any()


@pytest.mark.parametrize("build", [UNet, WithAux])
def test_what_is_stopped_and_resumed_ends_as_what_was_not(
    build: Any, references: tuple[str, str], tmp_path: Path
) -> None:
    data = load_masks(references[0], image_size=SIDE, hold_out=0.2)
    torch.manual_seed(0)
    whole = build()
    begun = copy.deepcopy(whole)
    history = train_segmenter(whole, data, RECIPE)
    assert history[-1].train_loss < history[0].train_loss
    assert all(epoch.val_miou is not None and epoch.train_top1 is None for epoch in history)
    assert history[-1].score == history[-1].val_miou

    class StoppedError(Exception):
        pass

    def stop(task: str, detail: str, done: int, total: int) -> None:
        if done == 3:
            raise StoppedError

    options = RunOptions(checkpoint=tmp_path / "checkpoint.pt")
    with pytest.raises(StoppedError):
        train_segmenter(begun, data, RECIPE, options=options, progress=stop)
    resumed = build()
    train_segmenter(resumed, data, RECIPE, options=RunOptions(checkpoint=options.checkpoint, resume=True))
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))


@pytest.mark.parametrize("hints", [True, False])
def test_a_teacher_is_learnt_from_without_masks(hints: bool, references: tuple[str, str]) -> None:
    data = load_masks(references[0], image_size=SIDE)
    torch.manual_seed(0)
    original = UNet()
    train_segmenter(original, data, Recipe(epochs=8, batch_size=4, optimizer="adamw", lr=1e-2, precision="fp32"))
    torch.manual_seed(1)
    other = UNet()
    x = torch.cat(draw_masked_inputs(data, 8))

    def distance() -> float:
        with torch.no_grad():
            return float((other.eval()(x) - original.eval()(x)).square().mean())

    before = distance()
    teacher = Teacher(original, weight=1.0, hints=hints)
    recipe = Recipe(epochs=8, batch_size=4, optimizer="adamw", lr=1e-2, precision="fp32")
    train_segmenter(other, data, recipe, teacher=teacher)
    assert distance() < 0.7 * before


def test_a_network_is_planned_converted_exported_and_scored(references: tuple[str, str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model(UNET)
    training = segment.train(model, references[0], RECIPE, image_size=SIDE, device="cpu", workers=0, out=tmp_path / "o")
    assert training.score == segment.evaluate(model, references[0], device="cpu", workers=0)
    assert training.file is not None
    data = load_masks(references[0], image_size=SIDE)
    batches = [torch.cat(draw_masked_inputs(data, 8)).repeat(4, 1, 1, 1)]
    planned = plan(model, example=batches[0][:1], calibration=batches, target_macs=0.7)
    smaller = convert(model, calibration=batches, plan=planned, effort="fast").model
    again = load(segment.train(smaller, data, RECIPE, device="cpu", workers=0, out=tmp_path / "s").file, factory=UNET)
    score = segment.evaluate(again, data, device="cpu", workers=0)
    file = tmp_path / "network.onnx"
    export(again, file, batches[0][:1], preprocessing=data.preprocessing)
    command = ["segment", "evaluate", str(file), "--data", references[0], "--workers", "0", "--json"]
    assert main(command) == 0
    assert score.images == 4


def test_the_verbs_do_as_the_functions(
    references: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = ["--data", references[1], "--image-size", str(SIDE), "--workers", "0", "--device", "cpu"]
    learn = ["--epochs", "1", "--batch-size", "4", "--precision", "fp32", "--hold-out", "0.2"]
    assert main(["segment", "train", UNET, *data, *learn, "--out", str(tmp_path / "a")]) == 0
    assert "held-out mIoU, %" in capsys.readouterr().out
    file = str(tmp_path / "a" / "network.safetensors")
    common = ["--data", references[1], "--workers", "0", "--device", "cpu", "--factory", UNET]
    assert main(["segment", "evaluate", file, *common, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["image_size"] == SIDE
    assert result["mean_iou"] == segment.evaluate(load(file, factory=UNET), references[1], workers=0).mean_iou
    assert main(["segment", "evaluate", file, *common, "--per-class"]) == 0
    assert "block" in capsys.readouterr().out
    teach = ["--teacher", file, "--hints", "--teacher-weight", "1", "--factory", UNET]
    assert main(["segment", "train", file, *data, *learn, *teach, "--out", str(tmp_path / "b")]) == 0


def test_the_usual_recipe_is_the_verbs() -> None:
    options = {option.name: option.default for option in cli.commands["segment"].commands["train"].params}  # type: ignore[attr-defined]  # a group
    usual = dataclasses.asdict(segment.USUAL)
    assert {n: v for n, v in usual.items() if n in options} == {n: v for n, v in options.items() if n in usual}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("digits", "there is no data set with masks 'digits'"),
        ("voc:", "there is no data set with masks"),
        ("voc:ROOT?colours=3", "there is no data set with masks"),
        ("voc:ROOT?classes=a&classes=b", "there is no data set with masks"),
        ("voc:ROOT?classes=a", "expected two or more, each once"),
        ("voc:ROOT?classes=a,a", "expected two or more, each once"),
        ("voc:ROOT?classes=background,bar", "has the class 2: expected 0 to 1, or 255"),
        ("voc:ROOT?train=other", "other.txt is not there: expected VOC's layout"),
        ("voc:nowhere", "is not there: expected VOC's layout"),
        ("coco:ROOT?train=train&val=val&classes=cat", "has no category 'cat': expected some of bar, block"),
        ("coco:nowhere", "is not there: expected COCO's layout"),
    ],
)
def test_data_that_cannot_serve_is_refused(reference: str, message: str, references: tuple[str, str]) -> None:
    root = references[0].removeprefix("voc:").partition("?")[0]
    with pytest.raises(InputError, match=message):
        list(load_masks(reference.replace("ROOT", root), image_size=SIDE).test)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (None, "has no 'segmentation': its boxes are for"),
        ([[1, 1, 2, 2]], "is no mask of its image, 56×40"),
        ([[1, 1, 2, 2, 500, 3]], "is no mask of its image"),
        ([[1, 1, 2, 2, float("nan"), 3]], "is no mask of its image"),
        ([[1, 1, 2, 2, "x", 3]], "is no mask of its image"),
        ("polygon", "is no mask of its image"),
        ({"size": [40, 56], "counts": [5]}, "is no mask of its image"),
        ({"size": [56, 40], "counts": [0, 2240]}, "is no mask of its image"),
        ({"size": [40, 56], "counts": "abc"}, "is no mask of its image"),
    ],
)
def test_shapes_that_are_no_masks_are_refused(shape: Any, message: str, tmp_path: Path) -> None:
    _, coco = make_masks(tmp_path)
    file = tmp_path / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][3]["segmentation"] = shape
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        load_masks(coco, image_size=SIDE)


def test_images_of_another_size_than_their_annotations_are_refused(tmp_path: Path) -> None:
    _, coco = make_masks(tmp_path)
    for file in (tmp_path / "val").iterdir():
        Image.open(file).resize((WIDTH // 2, HEIGHT // 2)).save(file)
    with pytest.raises(InputError, match=f"is 28×20: its annotations and masks say {WIDTH}×{HEIGHT}"):
        load_masks(coco, image_size=SIDE).test[0]


@pytest.mark.parametrize("number", [255, 256])
def test_no_category_has_the_number_that_does_not_count(number: int, tmp_path: Path) -> None:
    _, coco = make_masks(tmp_path)
    more = [{"id": 99, "name": "background"}]
    more += [{"id": 100 + index, "name": f"kind {index}"} for index in range(number - 3)]
    for part in ("train", "val"):
        file = tmp_path / "annotations" / f"instances_{part}.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {"categories": content["categories"] + more}))
    if number > IGNORED:
        with pytest.raises(InputError, match="has 256 classes: expected at most 255"):
            load_masks(coco, image_size=SIDE)
    else:
        classes = load_masks(coco, image_size=SIDE).classes
        assert len(classes) == number
        assert classes.count("background") == 1


@pytest.mark.parametrize("other", [None, "means", "list", "features"])
def test_outputs_that_are_no_maps_of_the_classes_are_passed_over(
    other: str | None, references: tuple[str, str]
) -> None:
    class WithOther(UNet):
        def forward(self, x: Tensor) -> Any:
            found = super().forward(x)
            others = {"means": found.mean((2, 3)), "list": [found], "features": torch.cat([found, found], 1)}
            return {"out": found, "other": None if other is None else others[other]}

    data = load_masks(references[0], image_size=SIDE)
    losses = []
    for build in (UNet, WithOther):
        torch.manual_seed(0)
        losses.append([epoch.train_loss for epoch in train_segmenter(build(), data, RECIPE)])
    assert losses[0] == losses[1]
    assert evaluate_segmenter(WithOther(), data.test, data).images == 4


def test_masks_in_colours_and_of_another_size_are_refused(tmp_path: Path) -> None:
    voc, _ = make_masks(tmp_path)
    file = tmp_path / "SegmentationClass" / "val0.png"
    for mask, message in (
        (Image.new("RGB", (WIDTH, HEIGHT)), "has colours"),
        (Image.new("L", (HEIGHT, WIDTH)), "is 40×56, and its image 56×40"),
    ):
        mask.save(file)
        with pytest.raises(InputError, match=message):
            load_masks(voc, image_size=SIDE).test[0]
    file.write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot be decoded as a mask"):
        load_masks(voc, image_size=SIDE).test[0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: UNet(num_classes=2), r"returns \[1, 2, 32, 32\]: .* has 3 classes and needs \[batch, 3"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "returns"),
        (lambda: nn.Conv2d(4, 3, 1), "cannot take the images"),
        (lambda: nn.LSTM(SIDE, 3), "cannot take the images|returns"),
    ],
)
def test_networks_that_cannot_serve_are_refused(build: Any, message: str, references: tuple[str, str]) -> None:
    data = load_masks(references[0], image_size=SIDE)
    for verb in (lambda m: train_segmenter(m, data, RECIPE), lambda m: evaluate_segmenter(m, data.test, data)):
        with pytest.raises(InputError, match=message):
            verb(build())


def test_classes_that_nobody_has_do_not_count() -> None:
    score = MaskScore(1, ("a", "b", "c"), ((3, 1, 0), (0, 4, 0), (0, 0, 0)))
    assert score.ious == {"a": 0.75, "b": 0.8, "c": None}
    assert score.mean_iou == pytest.approx(0.775)
