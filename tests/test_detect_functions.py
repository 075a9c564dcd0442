"""``ghostify.detect`` trains, scores and asks detectors, as the verb does."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from made_boxes import make_boxes
from PIL import Image
from tiny_detector import retinanet
from torch import nn

from ghostify import InputError, Recipe, create_model, detect, export, load
from ghostify.cli import cli
from ghostify.jobs.detect import evaluate_detector, train_detector

SIZES = {"min_size": 48, "max_size": 64}
RECIPE = Recipe(epochs=1, batch_size=4, optimizer="adamw", lr=2e-3, precision="fp32")


def detector() -> nn.Module:
    torch.manual_seed(0)
    return create_model("tiny_detector:retinanet", **SIZES)


def test_a_detector_learns_and_is_scored(tmp_path: Path) -> None:
    reference, out = make_boxes(tmp_path), tmp_path / "out"
    model, same = detector(), detector()
    data = detect.load_coco(reference, hold_out=0.25)
    training = detect.train(model, reference, RECIPE, hold_out=0.25, device="cpu", workers=0, out=out)
    history = train_detector(same, data, RECIPE)
    assert [epoch.train_loss for epoch in training.history] == [epoch.train_loss for epoch in history]
    score, found = evaluate_detector(same, data.test, data)
    assert training.score == score == detect.evaluate(model, data, device="cpu", workers=0, out=out)
    assert json.loads((out / "detections.json").read_text()) == found
    assert json.loads((out / "history.json").read_text())["numbers"] == score.numbers
    assert training.file == out / "network.safetensors"
    drawn = tmp_path / "drawn"
    saved = load(training.file, factory="tiny_detector:retinanet")
    pictures = detect.predict(saved, tmp_path / "val2017", least_score=0.0, device="cpu", out=drawn)
    assert {name for picture in pictures for _, name, _, _ in picture.objects} <= set(data.classes)
    assert len(list(drawn.glob("*.png"))) == len(pictures) == 5
    assert detect.train(detector(), data, RECIPE, device="cpu", workers=0).file is None


def test_objects_are_told_without_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.effect_noise((64, 48), 64).convert("RGB").save(path)
    model = detector().train()
    (picture,) = detect.predict(model, str(path), least_score=0.0, classes=("red", "blue"), device="cpu")
    assert picture.drawing is None
    assert {name for _, name, _, _ in picture.objects} <= {"red", "blue"}
    assert list(tmp_path.iterdir()) == [path]
    assert model.training
    with pytest.raises(InputError, match=r"^least_score is 2: expected 0 to 1$"):
        detect.predict(model, path, least_score=2)
    with pytest.raises(InputError, match="is no detector"):
        detect.predict(create_model("resnet20"), path)


def test_a_file_takes_the_place_of_the_plain_part(tmp_path: Path) -> None:
    data = detect.load_coco(make_boxes(tmp_path))
    model = detector().train()
    file = tmp_path / "network.onnx"
    export(model.eval(), file, torch.rand(1, 3, 64, 64))
    expected = detect.evaluate(model, data, device="cpu", workers=0)
    by_file = detect.evaluate(model.train(), data, file=file, device="cpu", workers=0)
    assert by_file.found == expected.found
    assert model.training


def test_detectors_and_data_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    reference = make_boxes(tmp_path)
    with pytest.raises(InputError, match="is no detector"):
        detect.train(create_model("resnet20"), reference, RECIPE, device="cpu")
    with pytest.raises(InputError, match="the detector knows 1 categories"):
        detect.evaluate(retinanet(1), reference, device="cpu")
    with pytest.raises(InputError, match=r"^tensorboard=True needs a training's folder: expected out$"):
        detect.train(detector(), reference, RECIPE, tensorboard=True)


def test_the_usual_recipe_is_the_verbs() -> None:
    options = {option.name: option.default for option in cli.commands["detect"].commands["train"].params}  # type: ignore[attr-defined]  # a group
    usual = dataclasses.asdict(detect.USUAL)
    assert {name: value for name, value in usual.items() if name in options} == {
        name: value for name, value in options.items() if name in usual
    }
