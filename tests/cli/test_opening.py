"""A network is opened as the user names it; its file once per verb, however much is asked of it."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import refused
from counted_reads import CountedReads
from PIL import Image

from ghostify import InputError, create_model, save
from ghostify.cli import main
from ghostify.cli.opening import NamedImages, NamedNetwork, channels_for
from ghostify.data import ImageData
from ghostify.models import registry


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A network whose file says how its images are normalised, and which classes it knows."""
    path = tmp_path / "network.safetensors"
    grey = [0.5, 0.5, 0.5]
    note = {"mean": grey, "std": grey, "image_size": 12, "classes": ["0", "1", "2"]}
    save(create_model("tiny:Tiny"), path, extra=note)
    return str(path)


@pytest.mark.parametrize(
    ("verb", "with_data"),
    [
        (["count"], False),
        (["evaluate"], True),
        (["convert", "--out", "OUT", "--effort", "fast", "--finetune", "1", "--batch-size", "16"], True),
        (["plan", "--out", "OUT", "--target-macs", "0.8", "--images", "40"], True),
        (["train", "--out", "OUT", "--epochs", "1", "--batch-size", "16"], True),
        (["export", "--out", "OUT"], True),
        (["look", "--out", "OUT"], False),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_verb_opens_its_networks_file_once(
    verb: list[str],
    with_data: bool,
    file: str,
    colours: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reads = CountedReads(monkeypatch)
    name, *rest = [str(tmp_path / "out") if word == "OUT" else word for word in verb]
    data = ["--data", f"npz:{colours}", "--device", "cpu"] if with_data else []
    status = main([name, file, "--factory", "tiny:Tiny", *data, *rest, "--json"])
    assert status == 0, capsys.readouterr().err
    assert reads.opened == [file]
    assert len(reads.tensors) == len(set(reads.tensors))


def test_a_teachers_file_is_opened_once(
    file: str, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reads = CountedReads(monkeypatch)
    train = ["train", "tiny:Tiny", "--data", f"npz:{colours}", "--epochs", "1", "--batch-size", "16"]
    train += ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main([*train, "--teacher", file, "--factory", "tiny:Tiny"]) == 0, capsys.readouterr().err
    assert reads.opened == [file]


def test_both_files_of_a_comparison_are_opened_once(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(tmp_path / "other.safetensors")
    save(create_model("tiny:Tiny", width=8), other)
    reads = CountedReads(monkeypatch)
    arguments = ["compare", file, other, "--factory", "tiny:Tiny", "--blocks", "6", "--device", "cpu"]
    assert main(arguments) == 0, capsys.readouterr().err
    assert reads.opened == [file, other]


def test_what_a_file_says_of_images_is_read_without_a_tensor(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = CountedReads(monkeypatch)
    network = NamedNetwork(file, factory="tiny:Tiny")
    assert network.channels == {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    network.refuse_other_classes("digits", ("0", "1", "2"))
    assert (reads.opened, reads.tensors) == ([file], [])


def test_photographs_are_normalised_as_a_librarys_own_weights_want_them(file: str) -> None:
    half, of_imagenet = (0.5, 0.5, 0.5), {"mean": ImageData.mean, "std": ImageData.std}
    for name in ("timm:tf_mobilenetv3_small_minimal_100", "torchvision:efficientnet_v2_l"):
        network = NamedNetwork(name)
        assert channels_for(network, None, None, ImageData) == {"mean": half, "std": half}
        assert channels_for(network, (0.1, 0.2, 0.3), None, ImageData) == {"mean": (0.1, 0.2, 0.3), "std": half}
        # Digits and the like are no photographs.
        assert channels_for(network, None, None, ImageData, photographs=False) == of_imagenet
    for name in ("timm:resnet10t", "torchvision:resnet18", "resnet20"):
        assert channels_for(NamedNetwork(name), None, None, ImageData) == of_imagenet
    assert channels_for(NamedNetwork(file, factory="tiny:Tiny"), None, None, ImageData) == {"mean": half, "std": half}


def counted(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["count", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


SHAPE = ("--input-shape", "3,12,12")


def test_a_factory_is_given_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    wide, narrow = (counted(capsys, f"tiny:Tiny?width={width}", *SHAPE)["macs"] for width in (16, 8))
    assert wide == 12 * 12 * 16 * 27 + 6 * 6 * 32 * 16 * 9 + 32 * 3
    assert narrow == 12 * 12 * 8 * 27 + 6 * 6 * 16 * 8 * 9 + 16 * 3


@pytest.mark.parametrize(
    "verb", [["count"], ["convert", "--out", "OUT"], ["export", "--out", "OUT"], ["look", "--out", "OUT"]]
)
def test_the_input_of_a_network_of_ones_own_is_asked_for(
    verb: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name, *rest = [str(tmp_path / "out") if word == "OUT" else word for word in verb]
    line = refused(capsys, name, "tiny:Tiny", *rest)
    expected = "tiny:Tiny does not say how large its inputs are: expected --input-shape, such as 3,224,224"
    assert line == f"ghostify: {expected}" + (", or --data" if name in ("convert", "export") else "")
    assert list(tmp_path.iterdir()) == []


def test_the_size_of_a_folders_images_is_asked_for_where_the_network_does_not_say() -> None:
    images = NamedImages("imagefolder:absent")
    with pytest.raises(InputError, match="tiny:Tiny does not say how large its images are: expected --image-size"):
        images.open(NamedNetwork("tiny:Tiny"))


@pytest.mark.parametrize(
    ("model", "side"), [("torchvision:inception_v3", 299), ("timm:resnet10t", 176), ("resnet20", 32), ("vgg16_bn", 224)]
)
def test_a_folders_images_are_brought_to_the_size_that_the_network_is_designed_for(
    model: str, side: int, tmp_path: Path
) -> None:
    for part in ("train", "val"):
        for kind in ("ant", "bee"):
            (tmp_path / part / kind).mkdir(parents=True)
            Image.new("RGB", (40, 30)).save(tmp_path / part / kind / "a.png")
    assert NamedImages(f"imagefolder:{tmp_path}").open(NamedNetwork(model)).image_size == side


def test_a_ghost_knows_its_input_and_names_the_option_for_its_factory(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_run_by_user", set())
    assert main(["convert", "tiny:Tiny?width=32", *SHAPE, "--out", str(tmp_path), "--json"]) == 0
    ghost = str(tmp_path / "ghost.safetensors")
    capsys.readouterr()
    assert counted(capsys, ghost)["input_shape"] == [3, 12, 12]  # in the process that has run the factory
    monkeypatch.setattr(registry, "_run_by_user", set())
    line = refused(capsys, "count", ghost)
    assert line.endswith("was built by tiny:Tiny, code that is not run on a file's word: add --factory tiny:Tiny")
    assert counted(capsys, ghost, "--factory", "tiny:Tiny?width=32")["input_shape"] == [3, 12, 12]


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["count", *SHAPE], ": --num-classes 7 builds the network for as many"),
        (["evaluate", "--data", "DATA"], ""),
        (["train", "--data", "DATA", "--out", "OUT"], ": --new-head leaves it out"),
    ],
)
def test_weights_for_other_classes_name_the_option_of_the_verb(
    arguments: list[str], remedy: str, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights.pth.tar"
    torch.save({"state_dict": create_model("tiny:Tiny", num_classes=7).state_dict()}, weights)
    places = {"DATA": f"npz:{colours}", "OUT": str(tmp_path / "out")}
    verb, *rest = [places.get(word, word) for word in arguments]
    line = refused(capsys, verb, "tiny:Tiny", "--weights", str(weights), *rest)
    what = f"ghostify: {weights} is for 7 classes, and the network for 3 (its last layer, head)"
    assert line == what + remedy
    assert not (tmp_path / "out").exists()


def test_what_was_unwrapped_and_chosen_is_a_line_on_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # as in a process without pytest's
    monkeypatch.chdir(tmp_path)
    state = create_model("tiny:Tiny").state_dict()
    torch.save({"model": state, "ema": dict(state)}, "weights.ckpt")
    assert main(["count", "tiny:wrapped", *SHAPE, "--json", "--weights", "weights.ckpt"]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "DataParallel: taken as the Tiny inside, without the wrapper",
        "weights.ckpt: took the weights under 'ema', not those under 'model'",
    ]
    assert json.loads(said.out)["params"] == sum(p.numel() for p in create_model("tiny:Tiny").parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny:Tiny?depth=3"], "takes no option 'depth': it takes num_classes, width"),
        (["tiny:Tiny?num_classes=8", "--num-classes", "4"], "has another num_classes than 4"),
        (["tiny:returns_no_module"], "returned int: expected a torch.nn.Module"),
        (["tiny:fails"], "tiny:fails cannot be built: KeyError: 'no such part'"),
        (["resnet18"], "did you mean torchvision:resnet18 or timm:resnet18?"),
        (["WEIGHTS"], "is built: name the network, and give the file as --weights"),
        (["tiny:Tiny", "--weights", "WEIGHTS"], "holds a whole network with its code"),
    ],
)
def test_what_is_wrong_with_a_network_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(create_model("tiny:Tiny"), tmp_path / "network.pt")
    words = [str(tmp_path / "network.pt") if word == "WEIGHTS" else word for word in arguments]
    assert message in refused(capsys, "count", *words)
