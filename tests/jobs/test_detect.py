"""Detectors learn, go on where they were stopped, and tell what they find."""

import copy
import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from made_boxes import make_boxes
from PIL import Image
from tiny_detector import fasterrcnn, fcos, retinanet, ssd
from torch import nn
from torch.utils.data import get_worker_info
from torchvision.models import detection, list_models

from ghostify import InputError, create_model, load
from ghostify.cli import main
from ghostify.data.coco import CocoImages, Example, draw_images, load_coco
from ghostify.jobs.coco_score import score_boxes
from ghostify.jobs.detect import Detection, categories_of, find_objects, objects_in, train_detector
from ghostify.jobs.learn import RunOptions
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import Teacher
from ghostify.plain_part import PlainPart
from ghostify.transform.detector import plain_inputs

SIZES = {"min_size": 48, "max_size": 64}
SMALL: dict[str, Any] = {"fpn_channels": 8, "min_size": 48, "max_size": 64, "smallest_anchor": 8, "norm": True}
RECIPE = Recipe(epochs=2, batch_size=4, optimizer="adamw", lr=2e-3, precision="fp32")
FLAGS = ["--fpn-channels", "8", "--min-size", "48", "--max-size", "64", "--smallest-anchor", "8", "--norm"]
LEARN = [*FLAGS, "--batch-size", "4", "--lr", "0.002", "--precision", "fp32", "--workers", "0", "--device", "cpu"]
NAME = "retinanet_mobilenet_v3_large_fpn"


def detector(name: str = NAME, num_classes: int = 2) -> Any:
    torch.manual_seed(0)
    return create_model(name, num_classes=num_classes, **SMALL)


@pytest.mark.parametrize("build", [retinanet, fasterrcnn])
def test_what_is_stopped_and_resumed_ends_as_what_was_not(build: Any, tmp_path: Path) -> None:
    data = load_coco(make_boxes(tmp_path), hold_out=0.25)
    torch.manual_seed(0)
    whole = build(**SIZES)
    begun = copy.deepcopy(whole)
    history = train_detector(whole, data, RECIPE)
    assert [epoch.images for epoch in history] == [8, 8]  # nine, the last batch of one left out
    assert all(epoch.val_ap is not None and epoch.train_top1 is None for epoch in history)

    class StoppedError(Exception):
        pass

    def stop(task: str, detail: str, done: int, total: int) -> None:
        if done == 3:
            raise StoppedError

    checkpoint = tmp_path / "checkpoint.pt"
    options = RunOptions(checkpoint=checkpoint)
    with pytest.raises(StoppedError):
        train_detector(copy.deepcopy(begun), data, RECIPE, options=options, progress=stop)
    resumed, again = copy.deepcopy(begun), RunOptions(checkpoint=checkpoint, resume=True)
    train_detector(resumed, data, RECIPE, options=again)
    for key, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], tensor), key
    other = build(**SIZES | {"min_size": 40})
    with pytest.raises(InputError, match="was begun otherwise: min_size was"):
        train_detector(other, data, RECIPE, options=again)


def test_frozen_norms_are_the_backbones_only(tmp_path: Path) -> None:
    data = load_coco(make_boxes(tmp_path))
    model = detector()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items() if "running_mean" in key}
    train_detector(model, data, dataclasses.replace(RECIPE, epochs=1, freeze_norm=True))
    held = {key: torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items()}
    assert len(held) > 40
    assert held == {key: key.startswith("backbone.body.") for key in held}


def test_it_learns_rectangles(tmp_path: Path) -> None:
    """The loss falls, and boxes lie where the rectangles are: none does at random."""
    data = load_coco(make_boxes(tmp_path))
    torch.manual_seed(0)
    model = retinanet(**SIZES)
    untrained = score_boxes(data.train.annotations, list(find_objects(model, data.train, data)))
    history = train_detector(model, data, Recipe(epochs=40, batch_size=4, optimizer="adamw", lr=5e-3, augment=False))
    trained = score_boxes(data.train.annotations, list(find_objects(model, data.train, data)))
    assert history[-1].train_loss < 0.5 * history[0].train_loss
    assert untrained.ap50 < 0.02
    assert trained.ap50 > 0.5


def test_found_boxes_are_in_pixels_of_the_image_and_ids_of_the_file(tmp_path: Path) -> None:
    data = load_coco(make_boxes(tmp_path))
    model = detector()
    model.score_thresh = 0.0
    rows = list(find_objects(model, data.test, data))
    parts = [list(find_objects(model, data.test, data, share=(part, 2))) for part in range(2)]
    assert sorted(map(str, rows)) == sorted(map(str, parts[0] + parts[1]))
    assert {row["image_id"] for row in rows} == {10, 20, 30, 40, 50}
    assert {row["category_id"] for row in rows} == {3, 7}
    for row in rows:
        x, y, width, height = row["bbox"]
        assert min(row["bbox"]) >= 0
        assert x + width <= 64.001
        assert y + height <= 48.001


def test_two_processes_share_the_images_and_count_each_once(tmp_path: Path) -> None:
    reference = make_boxes(tmp_path)
    command = ["detect", "train", NAME, "--data", reference, *LEARN, "--epochs", "1"]
    command += ["--hold-out", "0.25", "--out", str(tmp_path / "out")]
    assert processes.together(2, main, command) == [0, 0]
    [row] = csv.DictReader((tmp_path / "out" / "log.csv").open())
    assert int(row["images"]) == 8  # one batch of four in each
    data = load_coco(reference, hold_out=0.25)
    assert data.val is not None
    found = list(find_objects(load(tmp_path / "out" / "network.safetensors"), data.val, data))
    assert float(row["val_ap"]) == pytest.approx(score_boxes(data.val.annotations, found).ap, abs=1e-6)


@pytest.mark.parametrize("build", [retinanet, fasterrcnn, fcos, ssd])
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_changed_detector_learns_its_originals_maps_and_outputs(build: Any, weight: float, tmp_path: Path) -> None:
    data = load_coco(make_boxes(tmp_path))
    torch.manual_seed(0)
    original = (build() if build is ssd else build(**SIZES)).eval()
    learner = copy.deepcopy(original)
    with torch.no_grad():
        for parameter in learner.backbone.parameters():
            parameter.mul_(0.8)
    x = plain_inputs(original, draw_images(data.train, 8))[0]

    def apart() -> float:
        with torch.no_grad():
            mine, right = (PlainPart(network.eval(), with_maps=True)(x) for network in (learner, original))
            pairs = zip(mine, right, strict=True)
            return float(sum((a - b).square().mean() / b.var() for a, b in pairs))

    before, teacher = apart(), Teacher(copy.deepcopy(original), weight, hints=True)
    recipe = dataclasses.replace(RECIPE, epochs=10, lr=2e-4, augment=False, freeze_norm=True)
    history = train_detector(learner, data, recipe, teacher=teacher)
    falls_to = 0.98 if build is ssd and weight < 1 else 0.9  # an untrained SSD's loss of boxes is large
    assert history[-1].train_loss < falls_to * history[0].train_loss
    if weight == 1:
        assert apart() < 0.9 * before
        assert all(epoch.train_loss < 2 for epoch in history), "boxes are not learnt"
    assert all(torch.equal(a, b) for a, b in zip(teacher.network.parameters(), original.parameters(), strict=True))


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (Teacher(retinanet(), hints=False), "a detector learns by hints"),
        (Teacher(nn.Conv2d(3, 3, 1), hints=True), "teacher is a Conv2d: expected a detector"),
        (Teacher(fasterrcnn(), hints=True), "makes other maps or boxes than the detector"),
    ],
)
def test_a_teacher_that_cannot_teach_a_detector_is_refused(teacher: Teacher, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        train_detector(retinanet(), load_coco(make_boxes(tmp_path)), RECIPE, teacher=teacher)


@pytest.mark.parametrize(
    ("model", "recipe", "message"),
    [
        (nn.Conv2d(3, 3, 1), RECIPE, "Conv2d is no detector: expected one such as retinanet_ghostnet_110_fpn"),
        (1, RECIPE, "the detector knows 1 categories: .* has 2"),
        (2, Recipe(label_smoothing=0.1), "label_smoothing is for classification"),
    ],
)
def test_what_does_not_go_together_is_refused(model: Any, recipe: Recipe, message: str, tmp_path: Path) -> None:
    data = load_coco(make_boxes(tmp_path))
    with pytest.raises(InputError, match=message):
        train_detector(detector(num_classes=model) if isinstance(model, int) else model, data, recipe)


@pytest.mark.parametrize("build", [retinanet, fasterrcnn, fcos, ssd])
def test_the_categories_of_a_detector_are_known(build: Any) -> None:
    assert categories_of(build(num_classes=5)) == 5


@pytest.mark.parametrize("name", [name for name in list_models(module=detection) if name in vars(detection)])
def test_torchvisions_own_are_known(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = vars(detection)[name](weights=None, weights_backbone=None, num_classes=6).eval()
    data = load_coco(make_boxes(tmp_path))
    assert categories_of(model) == 5
    body = getattr(model.backbone, "body", model.backbone)
    assert Detection(model, data, workers=0).trained_before(model) is body
    if name.startswith(("maskrcnn", "keypointrcnn")):
        with pytest.raises(InputError, match=r"finds (mask|keypoint)s, too, and there are boxes alone"):
            train_detector(model, data, RECIPE)


def test_the_verb_trains_scores_converts_and_draws(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A whole story, as a user types it."""
    reference, out = make_boxes(tmp_path), tmp_path / "out"
    train = ["detect", "train", NAME, "--data", reference, *LEARN, "--epochs", "2", "--out", str(out)]
    assert main([*train, "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert len(trained["history"]) == 2
    assert set(trained["categories"]) == {"red", "blue"}
    assert json.loads((out / "settings.json").read_text())["options"]["fpn_channels"] == 8

    network = str(out / "network.safetensors")
    assert main(["detect", "evaluate", network, "--data", reference, "--workers", "0", "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["numbers"] == trained["numbers"]
    assert scored["images"] == 5

    convert = ["convert", network, "--data", reference, "--images", "40", "--effort", "fast", "--cheap", "pointwise"]
    ghost = str(tmp_path / "ghost" / "ghost.safetensors")
    assert main([*convert, "--out", str(tmp_path / "few"), "--json"]) == 2  # twelve images tell too little
    assert "expected at least 32" in capsys.readouterr().err
    assert not (tmp_path / "few").exists()
    assert main(["convert", network, "--out", str(tmp_path / "ghost"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["replaced"] > 10
    go_on = ["detect", "train", ghost, "--data", reference, "--epochs", "1", "--workers", "0", "--device", "cpu"]
    assert main([*go_on, "--out", str(tmp_path / "again")]) == 0
    assert "COCO's twelve numbers" in capsys.readouterr().out

    drawn = tmp_path / "drawn"
    predict = ["detect", "predict", ghost, str(tmp_path / "val2017"), "--least-score", "0", "--out", str(drawn)]
    assert main([*predict, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["images"]
    assert len(rows) == 5
    assert {label["label"] for row in rows for label in row["objects"]} <= {"red", "blue"}
    assert rows == json.loads((drawn / "detections.json").read_text())["images"]
    assert Image.open(drawn / "001.png").size == (64, 48)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "resnet20", "--data", "DATA", "--out", "OUT"], "resnet20 finds no objects: expected a detector"),
        (["train", NAME, "--data", "coco:nowhere", "--out", "OUT"], "is not there: expected COCO's layout"),
        (["evaluate", NAME, "--data", "digits"], "there is no data set with boxes 'digits'"),
        (["predict", NAME, "nowhere.jpg", "--out", "OUT"], "nowhere.jpg is not there: expected an image"),
        (["predict", "resnet20", "DATA/val2017", "--out", "OUT"], "resnet20 finds no objects: expected a detector"),
        (["predict", NAME, "DATA/val2017", "--out", "DATA/val2017"], "001.png is one of the images: choose another"),
        (["train", NAME, "--data", "DATA", "--backbone-weights", "no.pth", "--out", "OUT"], "no.pth is not there"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make_boxes(tmp_path)
    out = tmp_path / "out"
    place = {"DATA": f"coco:{tmp_path}", "OUT": str(out), "DATA/val2017": str(tmp_path / "val2017")}
    images = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    assert main(["detect", *(place.get(word, word) for word in arguments)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not out.exists() or not list(out.rglob("*.safetensors"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == images


def test_a_file_of_other_categories_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    reference, out = make_boxes(tmp_path), tmp_path / "out"
    assert main(["detect", "train", NAME, "--data", reference, *LEARN, "--epochs", "1", "--out", str(out)]) == 0
    evaluate = ["detect", "evaluate", str(out / "network.safetensors"), "--data", reference]
    for changes, odd in (
        ({"blue": "green"}, "class 2 is 'blue' there and 'green' here"),
        (
            {"red": "blue", "green": "red"},
            "class 1 is 'red' there and 'blue' here",
        ),  # the same, but in another order
    ):
        for path in (tmp_path / "annotations").iterdir():
            content = json.loads(path.read_text())
            for row in content["categories"]:
                row["name"] = changes.get(row["name"], row["name"])
            path.write_text(json.dumps(content))
        capsys.readouterr()
        assert main(evaluate) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert "knows other classes than" in line
        assert odd in line


def test_an_image_of_which_no_pixel_would_be_left_across_is_refused() -> None:
    with pytest.raises(InputError, match=r"x\.png is 1×400 pixels, of which the detector makes 64 by less than one"):
        objects_in(detector(), torch.zeros(3, 400, 1, dtype=torch.uint8), "cpu", "x.png")
    assert isinstance(objects_in(detector(), torch.zeros(3, 64, 1, dtype=torch.uint8), "cpu", "x.png"), list)


class DecodedByWorkers(CocoImages):
    """Images that are asked for in worker processes alone."""

    def __getitem__(self, index: int) -> Example:
        assert get_worker_info() is not None, "decoded in the process that trains"
        return super().__getitem__(index)


def test_every_image_of_a_training_is_decoded_by_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghostify.jobs.detect.CocoImages", DecodedByWorkers)
    data = load_coco(make_boxes(tmp_path), hold_out=0.25)
    assert data.val is not None
    data = dataclasses.replace(data, val=DecodedByWorkers(data.val.annotations))
    (epoch,) = train_detector(detector(), data, dataclasses.replace(RECIPE, epochs=1), options=RunOptions(workers=1))
    assert epoch.val_ap is not None
