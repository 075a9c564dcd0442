"""What a verb can know at the start it refuses at the start: before images are read, and before any work."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from made_boxes import make_boxes
from PIL import Image

from ghostify import create_model, save
from ghostify.atomic import check_writable
from ghostify.cli import main
from ghostify.needed import EXTRAS
from ghostify.planning.plan_file import Plan, write_plan

# By verb: what must not begin where the verb is refused.
READING = (
    *("ghostify.cli.opening.load_data", "ghostify.cli.detect.load_coco", "ghostify.cli.convert.load_coco"),
    "ghostify.cli.segment.load_masks",
)
WORK = (
    *("ghostify.cli.train.train_and_score", "ghostify.verbs.run.run", "ghostify.cli.evaluate.score_network"),
    *("ghostify.cli.plan.plan_network", "ghostify.cli.convert.convert_network", "ghostify.cli.look.look_at"),
    *(
        "ghostify.cli.export.export_network",
        "ghostify.cli.compare.compare_networks",
        "ghostify.cli.explain.explain_network",
    ),
    *(
        "ghostify.cli.detect.train_and_score_detector",
        "ghostify.cli.detect.evaluate_detector",
        "ghostify.cli.detect.find_in_files",
    ),
    *("ghostify.cli.segment.train_and_score_segmenter", "ghostify.cli.segment.evaluate_segmenter"),
)


def fails(*args: object, **kwargs: object) -> None:
    raise AssertionError("work began")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WORK:
        monkeypatch.setattr(name, fails)


@pytest.fixture
def no_images(monkeypatch: pytest.MonkeyPatch, no_work: None) -> None:
    for name in READING:
        monkeypatch.setattr(name, fails)


def refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    return line


BOXES, MASKS = "tiny_detector:retinanet", "tiny_segmenter:UNet"
WRITING = {
    "train": ["tiny:Tiny", "--data", "digits"],
    "run": ["--model", "tiny:Tiny", "--data", "digits", "--target-speedup", "2"],
    "convert": ["tiny:Tiny"],
    "plan": ["tiny:Tiny", "--data", "digits", "--target-macs", "0.6"],
    "export": ["tiny:Tiny"],
    "look": ["tiny:Tiny"],
    "detect train": [BOXES, "--data", "coco:DIR"],
    "detect evaluate": [BOXES, "--data", "coco:DIR"],
    "detect predict": [BOXES, "a.png"],
    "segment train": [MASKS, "--data", "voc:DIR", "--image-size", "32"],
}
LAST_FILE = {
    "train": "history.json",
    "run": "report.html",
    "convert": "layers.json",
    "plan": "plan.json",
    "export": "network.json",
    "look": "look.html",
    "detect train": "network.safetensors",
    "detect evaluate": "detections.json",
    "detect predict": "detections.json",
    "segment train": "history.json",
}


@pytest.mark.usefixtures("no_images")
@pytest.mark.parametrize("verb", WRITING)
@pytest.mark.parametrize(
    "place", ["a file", "inside a file", "inside /proc", "with a folder in the way", "a long name"]
)
def test_where_nothing_can_be_written_nothing_begins(
    verb: str, place: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "out" / LAST_FILE[verb]).mkdir(parents=True)
    out = {
        "a file": tmp_path / "file",
        "inside a file": tmp_path / "file" / "deeper" / "out",
        "inside /proc": Path("/proc/ghostify/out"),
        "with a folder in the way": tmp_path / "out",
        "a long name": tmp_path / ("x" * 300),
    }[place]
    before = sorted(tmp_path.rglob("*"))
    line = refused(capsys, [*verb.split(), *WRITING[verb], "--out", str(out)])
    assert line.startswith("ghostify: Invalid value for '--out': ")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "deeper", "a.txt", "folder/")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="no file can be made there"):
        check_writable(tmp_path / "link")
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(NotADirectoryError):
        check_writable(tmp_path, "checkpoints/")


@pytest.mark.usefixtures("no_images")
@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("matplotlib", ["run", "--target-speedup", "2"]),
        ("jinja2", ["run", "--target-speedup", "2"]),
        ("nncf", ["run", "--target-speedup", "2", "--int8"]),
        ("matplotlib", ["look", "tiny:Tiny"]),
        ("tensorboard", ["train", "tiny:Tiny", "--data", "digits", "--tensorboard"]),
        ("openvino", ["plan", "tiny:Tiny", "--data", "digits", "--target-speedup", "1.5"]),
        ("onnxscript", ["plan", "tiny:Tiny", "--data", "digits", "--max-accuracy-drop", "1"]),
        ("onnxruntime", ["compare", "tiny:Tiny", "tiny:Tiny", "--engine", "onnxruntime"]),
        ("openvino", ["explain", "tiny:Tiny"]),
        ("onnx", ["export", "tiny:Tiny"]),
        ("openvino", ["export", "tiny:Tiny", "--format", "openvino"]),
        ("nncf", ["export", "tiny:Tiny", "--data", "digits", "--int8"]),
        ("nncf", ["plan", "tiny:Tiny", "--data", "digits", "--target-speedup", "2", "--int8"]),
        ("nncf", ["compare", "tiny:Tiny", "tiny:Tiny", "--engine", "openvino", "--precision", "fp32,int8"]),
        ("nncf", ["explain", "tiny:Tiny", "--precision", "int8"]),
        ("pycocotools", ["detect", "train", BOXES, "--data", "coco:DIR"]),
        ("pycocotools", ["detect", "evaluate", BOXES, "--data", "coco:DIR"]),
        ("pycocotools", ["segment", "train", MASKS, "--data", "coco:DIR"]),
        ("tensorboard", ["segment", "train", MASKS, "--data", "voc:DIR", "--tensorboard"]),
        ("timm", ["train", "timm:resnet18", "--data", "digits"]),
        ("timm", ["evaluate", "timm:resnet18", "--data", "digits"]),
    ],
)
def test_a_package_that_is_missing_is_named_at_the_start(
    package: str,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    writes = arguments[0] not in ("compare", "explain", "evaluate")
    line = refused(capsys, [*arguments, "--out", str(tmp_path / "out")] if writes else arguments)
    assert f"needs the package {package}, which is not installed" in line
    assert line.endswith(f"pip install 'ghostify[{EXTRAS[package]}]'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_images")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", BOXES, "--data", "digits", "--out", "o"], "finds objects: use `ghostify detect`"),
        (["train", "retinanet_ghostnet_110_fpn", "--data", "digits", "--out", "o"], "finds objects"),
        (["evaluate", BOXES, "--data", "digits"], "finds objects: use `ghostify detect`"),
        (
            ["run", "--model", BOXES, "--data", "digits", "--target-speedup", "2"],
            "finds objects: use `ghostify detect`",
        ),
        (
            ["plan", BOXES, "--data", "digits", "--max-accuracy-drop", "1", "--out", "o"],
            "--max-accuracy-drop is about top-1",
        ),
        (["export", BOXES, "--data", "digits", "--out", "o"], "finds objects: use `ghostify detect`"),
        (["detect", "train", "resnet20", "--data", "coco:DIR", "--out", "o"], "resnet20 finds no objects"),
        (["detect", "evaluate", "tiny:Tiny", "--data", "coco:DIR"], "tiny:Tiny finds no objects"),
        (["detect", "predict", "resnet20", ".", "--out", "o"], "holds no images"),
        (["detect", "predict", "resnet20", "a.png", "--out", "o"], "resnet20 finds no objects"),
        (["segment", "train", BOXES, "--data", "voc:DIR", "--out", "o"], "finds objects: use `ghostify detect`"),
        (["segment", "train", MASKS, "--data", "voc:DIR", "--out", "o"], "expected --image-size, such as 224"),
        (["train", "resnt20", "--data", "digits", "--out", "o"], "did you mean resnet20"),
        (["evaluate", "tiny:fails", "--data", "digits"], "tiny:fails cannot be built"),
        (["train", "resnet20", "--weights", "no.pt", "--data", "digits", "--out", "o"], "no.pt is not there"),
        (["train", "resnet20", "--teacher", "no.safetensors", "--data", "digits", "--out", "o"], "is not there"),
        (["convert", "resnet20", "--plan", "no.json", "--data", "digits", "--out", "o"], "no.json is not there"),
        (["convert", "resnet20", "--part", "fpn", "--data", "digits", "--out", "o"], "--part is for a detector"),
        (["convert", "resnet20", "--skip", "x", "--data", "digits", "--out", "o"], "--skip: 'x' matches no module"),
        (["plan", "resnet20", "--skip", "x", "--data", "digits", "--target-macs", "0.6", "--out", "o"], "--skip: 'x'"),
        (["train", "resnet20", "--device", "cuda:7", "--data", "digits", "--out", "o"], "'--device'"),
        (["evaluate", "resnet20", "--threads", "100000", "--data", "digits"], "'--threads'"),
        (["evaluate", "resnet20", "--workers", "100000", "--data", "digits"], "'--workers'"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_what_does_not_go_together_is_refused_before_images_are_read(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture, but a file")
    if "." in arguments:
        (tmp_path / "a.png").unlink()
    monkeypatch.chdir(tmp_path)
    before = list(tmp_path.iterdir())
    assert message in refused(capsys, arguments)
    assert list(tmp_path.iterdir()) == before


@pytest.mark.usefixtures("no_images")
@pytest.mark.parametrize(
    "verb", [["train", "tiny:Tiny", "--data", "digits"], ["detect", "train", BOXES, "--data", "coco:X"]]
)
def test_a_folder_with_another_training_is_refused_before_images_are_read(
    verb: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"of a training")
    assert "resume it (--resume)" in refused(capsys, [*verb, "--out", str(tmp_path)])


@pytest.mark.usefixtures("no_images")
def test_a_finished_run_is_refused_before_images_are_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    arguments = ["run", "--target-speedup", "2", "--out", str(tmp_path)]
    assert "holds another run: choose another --out" in refused(capsys, arguments)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("verb", ["train", "evaluate", "plan", "export"])
def test_a_network_of_other_classes_than_the_images_have_is_refused_before_any_work(
    verb: str, colours: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = str(tmp_path / "network.safetensors")
    save(create_model("tiny:Tiny", num_classes=2), file)
    arguments = [verb, file, "--factory", "tiny:Tiny", "--data", f"npz:{colours}", "--device", "cpu"]
    arguments += ["--out", str(tmp_path / "out")] if verb != "evaluate" else []
    arguments += ["--max-accuracy-drop", "1"] if verb == "plan" else []
    assert "has 3 classes" in refused(capsys, arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_work")
def test_a_teacher_of_other_classes_is_refused_before_any_work(
    colours: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = str(tmp_path / "teacher.safetensors")
    save(create_model("resnet20", num_classes=3), file, extra={"classes": ["ants", "bees", "wasps"]})
    images = tmp_path / "images"
    for part in ("train", "val"):
        for name in ("ants", "bees", "flies"):
            folder = images / part / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / "a.png")
    train = ["train", "tiny:Tiny", "--data", f"imagenet:{images}", "--hold-out", "0", "--out", str(tmp_path / "out")]
    train += ["--image-size", "8"]
    line = refused(capsys, [*train, "--teacher", file])
    assert "class 3 is 'wasps' there and 'flies' here" in line


@pytest.mark.usefixtures("no_images")
def test_a_plan_file_is_read_before_the_images(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(Plan({}, ("macs", 0.9), 0.9, 0.0, 0.1), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": "another"}))
    convert = ["convert", "resnet20", "--plan", str(path), "--data", "digits", "--out", str(tmp_path / "out")]
    assert "is no plan" in refused(capsys, convert)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--color-jitter", "0.4"], "--color-jitter and --rand-augment are for images of a folder"),
        (["--rand-augment"], "--color-jitter and --rand-augment are for images of a folder"),
        (["--cuda-graph", "--device", "cpu"], "--cuda-graph: expected one process on a CUDA device"),
        (["--image-size", "32"], "--image-size is for imagefolder: and imagenet:"),
    ],
)
def test_a_training_that_is_refused_leaves_no_folder(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    train = ["train", "resnet20", "--data", "digits", "--out", str(tmp_path / "out")]
    assert message in refused(capsys, [*train, *options])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["look", "tiny:Tiny", "--input-shape", "3,99999999,99999999", "--out", "out"],
        ["compare", "tiny:Tiny", "tiny:Tiny", "--input-shape", "3,99,99", "--batch-size", "2000000000"],
        ["explain", "tiny:Tiny", "--input-shape", "3,12,12", "--batch-size", "2000000000", "--engine", "onnxruntime"],
        ["convert", "tiny:Tiny?width=999999999999", "--input-shape", "3,12,12", "--out", "out"],
    ],
    ids=lambda arguments: " ".join(arguments[:1] + arguments[-1:]),
)
def test_what_no_memory_holds_is_refused_in_a_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, arguments)
    assert "memory" in line or "overflow" in line.lower()
    assert len(line) < 500
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        ("plan tiny:Tiny --data digits --target-macs 0.6", "--image-size"),
        ("compare tiny:Tiny tiny:Tiny", "--batch-size"),
        ("count tiny:Tiny", "--num-classes"),
        (f"detect evaluate {BOXES} --data coco:x", "--min-size"),
    ],
)
def test_a_number_that_is_larger_than_any_size_is_refused(
    verb: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"Invalid value for '{option}'" in refused(capsys, [*verb.split(), option, "9" * 30])


def test_a_teacher_of_mixed_precision_is_refused_before_anything_is_written(
    colours: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = str(tmp_path / "teacher.safetensors")
    teacher = create_model("tiny:Tiny")
    teacher.bn1.double()
    save(teacher, file)
    train = ["train", "tiny:Tiny", "--data", f"npz:{colours}", "--teacher", file, "--factory", "tiny:Tiny"]
    line = refused(capsys, [*train, "--device", "cpu", "--out", str(tmp_path / "out")])
    assert "Tiny cannot take the images" in line
    assert not (tmp_path / "out").exists()
    compare = ["compare", "tiny:Tiny", file, "--factory", "tiny:Tiny", "--input-shape", "3,12,12"]
    assert "Tiny cannot take an input of 1×3×12×12: " in refused(capsys, [*compare, "--device", "cpu"])


@pytest.mark.parametrize("others", [[], ["notes.txt"]])
def test_a_training_that_meets_a_broken_image_leaves_the_folder_as_it_was(
    others: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data, out = make_boxes(tmp_path / "boxes"), tmp_path / "out"
    (tmp_path / "boxes" / "train2017" / "007.png").write_bytes(b"")
    for name in others:
        out.mkdir()
        (out / name).write_text("of before")
    learn = ["--epochs", "1", "--workers", "0", "--device", "cpu", "--out", str(out), "--json"]
    assert main(["detect", "train", BOXES, "--data", data, *learn]) == 2
    assert "007.png cannot be decoded as an image" in capsys.readouterr().err
    assert [file.name for file in out.iterdir()] == others if others else not out.exists()


def test_no_line_carries_what_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, ["count", "res\x1b[2Jnet\x07"])
    assert "res\\x1b[2Jnet\\x07" in line
    assert line.isprintable()
