"""The command line as a user meets it."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import printed, refused
from PIL import Image

from ghostify import InputError, count, create_model, list_detectors, list_models, load, save
from ghostify.changes import BlockPlan, LayerPlan, OneConvolution, Prune
from ghostify.cli import main
from ghostify.cli.opening import NamedImages, NamedNetwork
from ghostify.cli.output import print_table
from ghostify.jobs.recipe import Recipe
from ghostify.network_file import read_extra
from ghostify.planning.plan_file import Plan, write_plan


def test_models_lists_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    result = printed(capsys, "models", "--json")
    assert (result["models"], result["detectors"]) == (list_models(), list_detectors())
    assert main(["models"]) == 0
    assert capsys.readouterr().out.split() == list_models() + list_detectors()


def test_count_prints_the_published_figures(capsys: pytest.CaptureFixture[str]) -> None:
    counted = printed(capsys, "count", "ghost_vgg16_cifar", "--ratio", "3", "--json")
    assert (counted["params"], counted["macs"]) == (5_218_476, 107_240_040)
    assert main(["count", "ghost_resnet56", "--cheap-kernel-size", "1", "--layers"]) == 0
    out = capsys.readouterr().out
    assert "63.01 M" in out
    assert "layer3.8.conv2.cheap_operation.0" in out


def test_a_published_row_is_trained_for_by_its_name(
    capsys: pytest.CaptureFixture[str], colours: Path, tmp_path: Path
) -> None:
    rows = printed(capsys, "recipes", "--json")["recipes"]
    assert (rows["cifar10_ghost_resnet56"]["top1"], rows["imagenet_ghost_resnet50_s4"]["top5"]) == (92.7, 91.9)
    assert rows["imagenet_ghostnet_100"]["recipe"]["lr_batch_size"] == 256
    assert main(["recipes"]) == 0
    assert "imagenet_ghostnet_050" in capsys.readouterr().out

    train = ["train", "--data", f"npz:{colours}", "--device", "cpu", "--out", str(tmp_path / "out"), "--json"]
    row = ["--recipe", "cifar10_ghost_resnet56", "--epochs", "1", "--batch-size", "20"]
    result = printed(capsys, *train, *row)
    assert result["model"] == "ghost_resnet56"
    published = Recipe(epochs=400, batch_size=128, lr=0.1, weight_decay=1e-4, schedule="steps", warmup_epochs=0)
    assert Recipe(**result["recipe"]) == dataclasses.replace(published, epochs=1, batch_size=20)
    assert result["published"]["top1"] == 92.7
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        *("settings.json", "log.csv", "checkpoint.pt", "best.safetensors", "history.json", "network.safetensors")
    }
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["row"] == "cifar10_ghost_resnet56"
    counted = count(load(tmp_path / "out" / "network.safetensors"), (3, 32, 32))
    assert round(counted.macs / 1e6, 1) == 63.0  # the paper's row is d = 1
    assert "a MODEL or --recipe NAME, and not both" in refused(capsys, *train, *row, "resnet20")
    assert "a MODEL or --recipe NAME, and not both" in refused(capsys, *train)
    assert "'--cheap-kernel-size': 2: expected an odd" in refused(
        capsys, *train, *row, "--cheap-kernel-size", "2"
    )  # said, not the row's


def test_evaluate_tells_each_class(capsys: pytest.CaptureFixture[str], colours: Path) -> None:
    evaluate = ["evaluate", "tiny:Tiny", "--data", f"npz:{colours}", "--device", "cpu"]
    result = printed(capsys, *evaluate, "--json")
    assert [row["images"] for row in result["classes"].values()] == [10, 10, 10]
    assert sum(row["top1"] for row in result["classes"].values()) / 3 == pytest.approx(result["top1"])
    assert result["images_per_second"] > 0
    assert main([*evaluate, "--per-class"]) == 0
    assert "95 % interval" in capsys.readouterr().out


def test_a_network_that_does_not_go_with_the_images_is_not_scored(
    capsys: pytest.CaptureFixture[str], colours: Path
) -> None:
    data = ["--data", f"npz:{colours}", "--device", "cpu"]
    assert "has 3 classes and needs [batch, 3]" in refused(capsys, "evaluate", "tiny:for_two_classes", *data)
    assert "cannot take the images of" in refused(capsys, "evaluate", "vgg16_cifar", *data)


def test_a_factory_that_takes_no_number_of_classes_is_trained_and_scored(
    capsys: pytest.CaptureFixture[str], colours: Path, tmp_path: Path
) -> None:
    network = ["tiny:for_three_classes", "--data", f"npz:{colours}", "--device", "cpu", "--json"]
    assert printed(capsys, "evaluate", *network)["test_images"] == 30
    learn = ["--epochs", "1", "--batch-size", "16", "--out", str(tmp_path / "out")]
    assert len(printed(capsys, "train", *network, *learn)["history"]) == 1


@pytest.mark.parametrize("arguments", [[], ["detect"]])
def test_without_a_verb_the_help_is_printed_line_by_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0].startswith(" ".join(["Usage: ghostify", *arguments]))
    assert any(line.split()[:1] == ["train"] for line in lines)


@pytest.mark.parametrize(("verb", "status"), [(["models"], 0), (["count", "no-such-network"], 2)])
def test_no_process_group_outlives_a_verb(verb: list[str], status: int) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    assert main(verb) == status
    assert not torch.distributed.is_initialized()


def test_look_writes_a_page_and_tells_the_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "look"
    look = ["look", "tiny:Tiny", "--input-shape", "3,24,24", "--layer", "conv1", "--out", str(out)]
    result = printed(capsys, *look, "--json")
    [layer] = result["layers"]
    assert (layer["layer"], layer["maps"], layer["height"]) == ("conv1", 16, 24)
    assert sorted(file.name for file in out.iterdir()) == ["look.html", "look.png"]
    assert main(look) == 0
    assert "Share of the variance of all maps that half of them explain: " in capsys.readouterr().out

    printed(capsys, "convert", "tiny:Tiny", "--input-shape", "3,24,24", "--out", str(tmp_path / "g"), "--json")
    against = ["--against", str(tmp_path / "g" / "ghost.safetensors"), "--factory", "tiny:Tiny"]
    result = printed(capsys, *look[:4], *against, "--out", str(out), "--json")
    assert [layer["layer"] for layer in result["layers"]] == ["conv2"]
    assert len(result["layers"][0]["intrinsic"]) == 16
    assert (out / "against.png").exists()

    assert "there is no layer 'conv9'" in refused(capsys, *look, "--layer", "conv9")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert "broken.jpg cannot be decoded" in refused(capsys, *look, "--image", str(tmp_path / "broken.jpg"))
    assert "expected 3 channels" in refused(capsys, "look", "tiny:Tiny", "--input-shape", "1,24,24")


def test_convert_writes_a_ghost_that_loads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = printed(capsys, "convert", "resnet20", "--skip", "conv1", "--out", str(tmp_path / "g"), "--json")
    assert result["replaced"] == 18
    assert result["macs_after"] < result["macs_before"]
    assert len(load(result["out"])(torch.zeros(1, 3, 32, 32))[0]) == 10
    assert json.loads((tmp_path / "g" / "layers.json").read_text()) == result["layers"]
    assert main(["convert", "resnet20", "--out", str(tmp_path / "h")]) == 0
    assert "19 of 19 convolutions are changed" in capsys.readouterr().out


def test_convert_with_data_keeps_what_a_network_knows(
    capsys: pytest.CaptureFixture[str], colours: Path, tmp_path: Path
) -> None:
    data, out = f"npz:{colours}", str(tmp_path / "out")
    train = ["train", "tiny:Tiny", "--data", data, "--epochs", "8", "--batch-size", "16", "--lr", "0.02"]
    trained = printed(capsys, *train, "--device", "cpu", "--out", out, "--json")
    convert = ["convert", trained["out"], "--factory", "tiny:Tiny", "--data", data, "--images", "60", "--device", "cpu"]
    kept = printed(capsys, *convert, "--cheap", "pointwise", "--effort", "fast", "--out", str(tmp_path / "g"), "--json")
    assert kept["macs_after"] < 0.7 * kept["macs_before"]
    assert [layer["block"] for layer in kept["layers"]] == ["conv1", "conv2"]
    arguments = ["evaluate", kept["out"], "--factory", "tiny:Tiny", "--data", data, "--device", "cpu", "--json"]
    assert printed(capsys, *arguments)["top1"] > 0.9  # no epoch of training since; chance is a third
    tuned = printed(
        capsys,
        *convert,
        "--effort",
        "fast",
        "--finetune",
        "2",
        "--batch-size",
        "16",
        "--hints",
        "--out",
        str(tmp_path / "f"),
        "--json",
    )
    assert [epoch["epoch"] for epoch in tuned["finetune"]] == [1, 2]
    assert printed(capsys, arguments[0], tuned["out"], *arguments[2:])["top1"] > 0.9
    assert main(["convert", "resnet20", "--finetune", "1", "--out", str(tmp_path / "h")]) == 2
    assert "name them with --data" in capsys.readouterr().err
    assert main([*convert, "--hints", "--out", str(tmp_path / "h")]) == 2
    assert "say how many with --finetune" in capsys.readouterr().err
    assert main([*train, "--hints", "--out", str(tmp_path / "h")]) == 2
    assert "name it with --teacher" in capsys.readouterr().err
    assert main([*convert, "--images", "5", "--out", str(tmp_path / "h")]) == 2
    assert "5 images: expected at least 32" in capsys.readouterr().err
    assert not (tmp_path / "h").exists()


def test_a_plan_is_made_edited_and_followed(capsys: pytest.CaptureFixture[str], colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan"
    data = ["--data", f"npz:{colours}", "--images", "40", "--device", "cpu"]
    network = "tiny:Tiny"
    planned = printed(capsys, "plan", network, *data, "--target-macs", "0.7", "--out", str(out), "--json")
    assert planned["macs"] <= 0.7
    assert planned["layers"]["conv1"]["output"]["kind"] != "keep"
    plan = json.loads((out / "plan.json").read_text())
    plan["layers"]["conv1"] = {"output": {"kind": "prune", "kept": 5, "dropped": 11}}
    (out / "plan.json").write_text(json.dumps(plan))
    follow = ["convert", network, *data, "--plan", str(out / "plan.json"), "--effort", "fast"]
    kept = printed(capsys, *follow, "--out", str(tmp_path / "g"), "--json")
    assert next(layer["kept"] for layer in kept["layers"] if layer["name"] == "conv1") == 5
    assert main(["plan", network, *data, "--target-macs", "0.7", "--out", str(out)]) == 0
    assert "Reachable: at least 0." in capsys.readouterr().out
    assert "expected one of --target-speedup" in refused(capsys, "plan", network, *data, "--out", str(out))


def test_a_plan_that_makes_one_convolution_of_a_whole_block_is_followed(
    capsys: pytest.CaptureFixture[str], colours: Path, tmp_path: Path
) -> None:
    layers = {"layer2.1": BlockPlan(OneConvolution(32, 1)), "layer2.1.conv1": LayerPlan(Prune(8, 24))}
    write_plan(Plan(layers, ("macs", 0.9), 0.9, 0.0, 0.1), tmp_path / "plan.json")
    data = ["--data", f"npz:{colours}", "--images", "40", "--device", "cpu"]
    convert = ["convert", "resnet20", *data, "--plan", str(tmp_path / "plan.json"), "--effort", "fast"]
    assert main([*convert, "--out", str(tmp_path / "g")]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("layer2.1")}
    assert "gone with its block" in rows["layer2.1.conv1"]
    assert "gone with its block" in rows["layer2.1.conv2"]
    assert "one convolution" in rows["layer2.1"]
    assert count(load(tmp_path / "g" / "ghost.safetensors"), (3, 32, 32)).of("layer2.1")[0] == 32 * 32 * 16 * 16
    assert main(["count", str(tmp_path / "g" / "ghost.safetensors")]) == 0


@pytest.mark.usefixtures("short_blocks")
def test_train_evaluate_and_compare_go_together(
    capsys: pytest.CaptureFixture[str], colours: Path, tmp_path: Path
) -> None:
    data, out = f"npz:{colours}", str(tmp_path / "out")
    train = ["train", "tiny:Tiny", "--data", data, "--epochs", "2", "--batch-size", "16", "--device", "cpu"]
    trained = printed(capsys, *train, "--out", out, "--json")
    assert len(trained["history"]) == 2
    assert json.loads((tmp_path / "out" / "history.json").read_text()) == trained
    file = trained["out"]
    scored = printed(capsys, "evaluate", file, "--data", data, "--factory", "tiny:Tiny", "--device", "cpu", "--json")
    assert scored["top1"] == trained["top1"]
    assert "resume it (--resume)" in refused(capsys, *train, "--out", out)
    compared = printed(capsys, "compare", "resnet20", "ghost_resnet20", "--blocks", "6", "--device", "cpu", "--json")
    assert compared["ratio_low"] <= compared["ratio"] <= compared["ratio_high"]
    assert compared["environment"]["threads"] == 1


def coloured_folder(place: Path, *classes: str) -> str:
    """Images of 24 pixels, of each class in another grey."""
    for part in ("train", "val"):
        for index, name in enumerate(classes):
            (place / part / name).mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (24, 24), (60 * index,) * 3).save(place / part / name / f"{number}.png")
    return f"imagefolder:{place}"


@pytest.mark.usefixtures("short_blocks")
def test_a_network_file_tells_what_images_it_is_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data, out = coloured_folder(tmp_path / "images", "ants", "bees"), str(tmp_path / "out")
    train = ["train", "tiny:Tiny", "--data", data, "--epochs", "1", "--workers", "0", "--device", "cpu"]
    train += ["--hold-out", "0", "--batch-size", "4", "--out"]
    printed(capsys, *train, out, "--image-size", "16", "--mean", "0.2,0.2,0.2", "--json")
    file = str(Path(out) / "network.safetensors")
    network = NamedNetwork(file, factory="tiny:Tiny")
    images = NamedImages(data).open(network)
    assert (images.image_size, images.mean) == (16, (0.2, 0.2, 0.2))
    assert NamedImages(data, 20, (0.5, 0.5, 0.5)).open(network).mean == (0.5, 0.5, 0.5)
    assert network.shape(network.open()) == (3, 16, 16)
    others = coloured_folder(tmp_path / "others", "bees", "wasps")
    line = refused(capsys, "evaluate", file, "--factory", "tiny:Tiny", "--data", others, "--workers", "0")
    assert line.endswith("or in another order: class 1 is 'ants' there and 'bees' here")
    learn = [*train, str(tmp_path / "student"), "--image-size", "16"]
    line = refused(capsys, *learn, "--teacher", file, "--factory", "tiny:Tiny")
    assert line.endswith("learned from images with another mean: expected --mean 0.2,0.2,0.2")
    compared = printed(capsys, "compare", "tiny:Tiny", file, "--factory", "tiny:Tiny", "--blocks", "6", "--json")
    assert compared["b"] == file


@pytest.mark.parametrize("mean", [0.5, [0.5, 0.5], ["a", "b", "c"]])
def test_a_file_that_tells_of_other_channels_is_refused(mean: Any, tmp_path: Path) -> None:
    save(create_model("resnet20"), tmp_path / "a.safetensors", extra={"mean": mean, "std": None})
    network = NamedNetwork(str(tmp_path / "a.safetensors"))
    with pytest.raises(InputError, match=r"says that mean is .*: expected three numbers"):
        NamedImages("digits").open(network)
    grey = (0.5, 0.5, 0.5)
    assert NamedImages("digits", mean=grey, std=grey).open(network).mean == grey


def test_as_many_outputs_as_classes_unless_the_user_says_how_many() -> None:
    assert NamedNetwork("resnet20").with_classes(4).num_classes == 4
    assert NamedNetwork("resnet20", num_classes=7).with_classes(4).num_classes == 7


def test_training_goes_on_from_weights_with_another_head_and_normalisation(
    capsys: pytest.CaptureFixture[str], colours: Path, tmp_path: Path
) -> None:
    weights, out = tmp_path / "weights.pt", tmp_path / "out"
    torch.save(create_model("tiny:Tiny", num_classes=9).state_dict(), weights)
    train = ["train", "tiny:Tiny", "--weights", str(weights), "--data", f"npz:{colours}", "--epochs", "1"]
    train += ["--batch-size", "16", "--device", "cpu", "--out", str(out)]
    assert "for 9 classes, and the network for 3 (its last layer, head): --new-head" in refused(capsys, *train)
    printed(capsys, *train, "--new-head", "--mean", "0.5,0.5,0.5", "--std", "0.4,0.4,0.4", "--json")
    assert read_extra(out / "network.safetensors")["mean"] == [0.5, 0.5, 0.5]
    assert "--new-head is for weights from a file: name it as --weights" in refused(
        capsys, "train", "tiny:Tiny", *train[4:-1], "x", "--new-head"
    )


def test_the_given_resnet20_scores_its_known_accuracy_on_cifar10(
    capsys: pytest.CaptureFixture[str], shared: Path, tmp_path: Path
) -> None:
    npz = tmp_path / "cifar10.npz"
    tool = [sys.executable, str(shared.parent / "tools" / "cifar10_npz.py"), str(npz), "--train-sheets", "1"]
    subprocess.run(tool, check=True, capture_output=True)
    weights = str(shared / "weights" / "resnet20-12fca82f.th")
    scored = printed(
        capsys, "evaluate", "resnet20", "--weights", weights, "--data", f"npz:{npz}", "--device", "cpu", "--json"
    )
    assert scored["top1"] == pytest.approx(0.9173, abs=2e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count", "resnet65"], "did you mean resnet56"),
        (["count", "resnet20", "--input-shape", "3,a"], "expected numbers such as 3,224,224"),
        (["count", "vgg16_cifar", "--input-shape", "3,8,8"], "cannot take an input of 3×8×8"),
        (["count", "resnet20", "--weights", "absent.pt"], "absent.pt is not there"),
        (["count", "absent.safetensors"], "absent.safetensors is not there"),
        (["evaluate", "absent.safetensors", "--data", "digits"], "absent.safetensors is not there"),
        (["count", "ghost_resnet20", "--ratio", "0"], "'--ratio': 0 is not in the range"),
        (["count"], "Missing argument"),
        (["cuont", "resnet20"], "No such command"),
        (["evaluate", "resnet20", "--data", "nothing"], "there is no data set 'nothing'"),
        (["evaluate", "resnet20", "--data", "digits", "--mean", "1,2"], "expected three numbers"),
        (["evaluate", "resnet20", "--data", "digits", "--mean", "0,0,nan"], "expected three numbers"),
        (["evaluate", "resnet20", "--data", "digits", "--std", "1,0,1"], "expected three numbers above 0"),
        (["evaluate", "resnet20", "--data", "digits", "--std", "1,inf,1"], "expected three numbers"),
        (["detect", "predict", "resnet20", "a.png", "--std", "1,1,-1", "--out", "o"], "expected three numbers above 0"),
        (["look", "resnet20", "--std", "1,1,-1"], "expected three numbers above 0"),
        (["train", "resnet20", "--data", "digits", "--out", "o", "--seed", "1700000000000000000"], "4294967295"),
        (["convert", "resnet20", "--out", "o", "--seed", "-1"], "4294967295"),
        (["plan", "resnet20", "--data", "digits", "--out", "o", "--seed", "4294967296"], "4294967295"),
        (
            ["train", "resnet20", "--data", "digits", "--out", "o", "--lr", "-1"],
            "--lr is -1.0: expected a",
        ),
        (
            ["train", "resnet20", "--data", "digits", "--out", "o", "--hold-out", "0.9"],
            "range 0<=x<=0.5",
        ),
        (["compare", "resnet20", "resnet50", "--engine", "x"], "'x' is not"),
        (["convert", "resnet20", "--skip", "nothing", "--out", "o"], "matches no module"),
        (["look", "vgg16_cifar", "--input-shape", "3,8,8"], "cannot take an input of 3×8×8"),
        (["look", "resnet20", "--input-shape", "3,0,5"], "expected positive whole numbers"),
        (["look", "resnet20", "--input-shape", "3,-4,5"], "expected positive whole numbers"),
        (["explain", "resnet20", "vgg16_cifar", "--input-shape", "3,8,8"], "cannot take an input of 3×8×8"),
        (["export", "resnet20", "--data", "coco:DIR", "--out", "o"], "resnet20 finds no objects"),
        (
            ["export", "tiny:Choosing", "--input-shape", "3,8,8", "--out", "o"],
            "goes one way or another by numbers that it computes",
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_image_met_by_a_worker_is_named_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for part in ("train", "val"):
        (tmp_path / part / "ant").mkdir(parents=True)
        (tmp_path / part / "ant" / "broken.jpg").write_bytes(b"\xff\xd8\xff no photograph")
    arguments = ["evaluate", "resnet20", "--data", f"imagenet:{tmp_path}", "--image-size", "32", "--workers", "1"]
    line = refused(capsys, *arguments, "--device", "cpu")
    assert line.startswith("ghostify: ")
    assert "broken.jpg cannot be decoded" in line


def test_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "ghost.safetensors")

    monkeypatch.setattr("ghostify.atomic.os.fsync", full)
    line = refused(capsys, "convert", "resnet20", "--out", str(tmp_path / "out"))
    assert line == "ghostify: ghost.safetensors: No space left on device"
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interruption_is_status_130(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ghostify.cli.models.list_models", interrupted)
    assert main(["models"]) == 130
    assert capsys.readouterr().err.strip() == "ghostify: interrupted"


@pytest.mark.parametrize(
    ("work", "arguments", "advice"),
    [
        ("train.train_and_score", ["train", "resnet20", "--data", "digits", "--out", "OUT"], "go on with --resume"),
        (
            "plan.plan_network",
            ["plan", "resnet20", "--data", "digits", "--target-macs", "0.5", "--images", "32", "--out", "OUT"],
            "the same call goes on with it",
        ),
        ("evaluate.score_network", ["evaluate", "resnet20", "--data", "digits"], ""),
        ("convert.convert_network", ["convert", "resnet20", "--out", "OUT"], ""),
    ],
)
def test_an_interruption_says_what_is_kept_only_where_something_is(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    work: str,
    arguments: list[str],
    advice: str,
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"ghostify.cli.{work}", interrupted)
    assert main([str(tmp_path / "out") if word == "OUT" else word for word in arguments]) == 130
    kept = f"; what was finished is kept: {advice}" if advice else ""
    assert capsys.readouterr().err.strip() == f"ghostify: interrupted{kept}"


def test_a_table_is_never_cut_however_narrow_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table(("a layer's name", "what became of it"), [("layer1.0.conv1", "it was left as it was")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in lines] == [
        "a layer's name     what became of it",
        "layer1.0.conv1 it was left as it was",
    ]
