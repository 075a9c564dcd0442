"""A network learns by one call, in memory or into a folder as the verb's."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tiny_detector import retinanet
from tiny_training import RECIPE

import ghostify
from ghostify import InputError, Recipe, Teacher, create_model, evaluate, load_data, train
from ghostify.cli import main
from ghostify.jobs import train as job
from ghostify.jobs.recipes import ROWS
from ghostify.network_file import known_extra
from ghostify.verbs.train import recipe_of

QUICK = dataclasses.replace(RECIPE, epochs=2)


def test_it_trains_in_place_and_writes_nothing_unless_asked(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the job does by itself."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    data = load_data(f"npz:{colours}", hold_out=0.1)
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(create_model("tiny:Tiny"))
    training = train(networks[0], f"npz:{colours}", QUICK, device="cpu")
    history = job.train(networks[1], data, QUICK)
    assert [epoch.train_loss for epoch in training.history] == [epoch.train_loss for epoch in history]
    assert all(torch.equal(a, b) for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True))
    assert training.score == evaluate(networks[1], data, device="cpu")
    assert training.file is None
    assert training.history[-1].val_top1 is not None  # a tenth is held out, as by the verb
    assert not list(empty.iterdir())


def test_the_folder_is_that_of_the_verb(colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--epochs", "2", "--batch-size", "16", "--lr", "0.05", "--precision", "fp32", "--device", "cpu"]
    by_verb, by_function = tmp_path / "verb", tmp_path / "function"
    assert main(["train", "tiny:Tiny", "--data", f"npz:{colours}", *options, "--out", str(by_verb), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    torch.manual_seed(0)
    model = create_model("tiny:Tiny")
    training = train(model, f"npz:{colours}", QUICK, device="cpu", out=by_function)
    assert {file.name for file in by_function.iterdir()} == {file.name for file in by_verb.iterdir()}
    own = json.loads((by_function / "history.json").read_text())
    assert own == json.loads(json.dumps(training.record))
    assert told == json.loads((by_verb / "history.json").read_text())
    assert told.keys() - own.keys() == {"row", "published", "command"}
    for name in ("model", "data", "recipe", "teacher", "top1", "test_images"):
        assert own[name] == told[name], name
    assert training.file == by_function / "network.safetensors"
    saved = ghostify.load(training.file)
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), model.parameters(), strict=True))


def test_a_training_goes_on_in_its_folder(colours: Path, tmp_path: Path) -> None:
    def stop(task: str, detail: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(create_model("tiny:Tiny"))
    data = f"npz:{colours}"
    with pytest.raises(KeyboardInterrupt):
        train(networks[0], data, QUICK, device="cpu", out=tmp_path / "a", progress=stop)
    with pytest.raises(InputError, match=r"holds a training that began before: resume it \(resume=True\)"):
        train(networks[0], data, QUICK, device="cpu", out=tmp_path / "a")
    resumed = train(networks[0], data, QUICK, device="cpu", out=tmp_path / "a", resume=True)
    whole = train(networks[1], data, QUICK, device="cpu")
    assert resumed.score == whole.score
    assert [epoch.train_loss for epoch in resumed.history] == [epoch.train_loss for epoch in whole.history]


def test_a_teacher_is_noted_and_the_images_are_remembered(colours: Path) -> None:
    """What the network is scored on next is prepared as what it learnt from."""
    model, original = create_model("tiny:Tiny"), create_model("tiny:Tiny")
    mean = (0.4, 0.4, 0.4)
    teacher, gentle = Teacher(original, weight=1, hints=True), dataclasses.replace(QUICK, lr=0.001)
    training = train(model, f"npz:{colours}", gentle, teacher=teacher, mean=mean, device="cpu")
    assert training.record["teacher"] == {"network": "tiny:Tiny", "weight": 1, "temperature": 4.0, "hints": True}
    assert known_extra(model)["mean"] == mean
    assert evaluate(model, f"npz:{colours}", device="cpu") == training.score


def test_a_published_row_gives_its_settings() -> None:
    assert recipe_of("cifar10_resnet56") == ROWS["cifar10_resnet56"].recipe
    own = Recipe(epochs=3)
    assert recipe_of(own) is own
    with pytest.raises(InputError, match=r"^there is no recipe 'resnet': expected a Recipe, or one of cifar10_vgg16, "):
        train(create_model("tiny:Tiny"), "digits", "resnet")


def test_what_cannot_be_trained_so_is_refused_before_anything_is_written(colours: Path, tmp_path: Path) -> None:
    data, out = f"npz:{colours}", tmp_path / "out"
    with pytest.raises(InputError, match="RetinaNet finds objects: use ghostify"):
        train(retinanet(), data, out=out)
    with pytest.raises(InputError, match=r"^resume=True needs a training's folder: expected out$"):
        train(create_model("tiny:Tiny"), data, resume=True)
    with pytest.raises(InputError, match="cuda_graph: expected one process on a CUDA device"):
        train(create_model("tiny:Tiny"), data, dataclasses.replace(QUICK, cuda_graph=True), device="cpu", out=out)
    with pytest.raises(InputError, match="are for images of a folder"):
        train(create_model("tiny:Tiny"), data, dataclasses.replace(QUICK, color_jitter=0.4), out=out)
    teacher = Teacher(create_model("tiny:Tiny", num_classes=4))
    with pytest.raises(InputError, match="returns 4 logits, the network 3"):
        train(create_model("tiny:Tiny"), data, QUICK, teacher=teacher, device="cpu", out=out)
    assert not out.exists()
