"""Exported files at the command line: written in int8, scored, and timed."""

import json
from pathlib import Path

import pytest
from command_line import printed, refused
from PIL import Image

from ghostify.cli import main


@pytest.fixture
def learnt(capsys: pytest.CaptureFixture[str], colours: Path, tmp_path: Path) -> list[str]:
    """A trained network's file, and how to build it."""
    train = ["train", "tiny:Tiny", "--data", f"npz:{colours}", "--epochs", "2", "--batch-size", "10", "--device", "cpu"]
    assert main([*train, "--hold-out", "0", "--out", str(tmp_path / "trained")]) == 0
    capsys.readouterr()
    return [str(tmp_path / "trained" / "network.safetensors"), "--factory", "tiny:Tiny"]


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8_is_a_switch_and_the_file_is_scored_and_timed_like_a_network(
    format: str, capsys: pytest.CaptureFixture[str], colours: Path, learnt: list[str], tmp_path: Path
) -> None:
    data, out = ["--data", f"npz:{colours}", "--device", "cpu"], tmp_path / "out"
    export = ["export", *learnt, *data, "--format", format, "--int8", "--out", str(out)]
    report = printed(capsys, *export, "--json")
    suffix, engine = (".onnx", "onnxruntime") if format == "onnx" else (".xml", "openvino")
    file = out / f"network.int8{suffix}"
    assert Path(report["path"]) == file
    assert not (out / f"network{suffix}").exists()
    assert report["int8"]["images"] == 60
    assert report["images"] == 30

    scored = printed(capsys, "evaluate", str(file), *data, "--json")
    assert scored["top1"] == report["int8"]["top1"]
    assert (scored["engine"], scored["test_images"]) == (engine, 30)

    compared = printed(capsys, "compare", learnt[0], str(file), *learnt[1:], "--blocks", "6", "--json")
    assert (compared["engine"], compared["precisions"]) == (engine, ["fp32", "fp32"])

    assert main(export) == 0
    table = capsys.readouterr().out
    assert "float32" in table
    assert "60 gave the ranges" in table
    assert main(["evaluate", str(file), *data]) == 0
    assert "of 30 test images" in capsys.readouterr().out


def test_ranges_come_from_photographs_without_classes(
    capsys: pytest.CaptureFixture[str], learnt: list[str], tmp_path: Path
) -> None:
    (tmp_path / "photographs").mkdir()
    for index in range(40):
        colour = tuple((40 * (channel == index % 3) + 5 * index) % 256 for channel in range(3))
        Image.new("RGB", (20, 16), colour).save(tmp_path / "photographs" / f"{index}.png")
    photographs = ["--calibration", str(tmp_path / "photographs"), "--input-shape", "3,12,12", "--device", "cpu"]
    report = printed(capsys, "export", *learnt, *photographs, "--int8", "--out", str(tmp_path / "out"), "--json")
    assert (report["int8"]["images"], report["images"]) == (40, 40)
    assert report["top1_before"] is None


def test_an_accuracy_drop_is_judged_by_images_held_out(
    capsys: pytest.CaptureFixture[str], colours: Path, learnt: list[str], tmp_path: Path
) -> None:
    data = ["--data", f"npz:{colours}", "--device", "cpu", "--out", str(tmp_path / "out")]
    report = printed(capsys, "export", *learnt, *data, "--int8", "--max-accuracy-drop", "0", "--json")
    assert report["int8"]["images"] == 54  # a tenth of 60 judges


def test_precisions_are_compared_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["tiny:Tiny", "tiny:Tiny", "--input-shape", "3,12,12", "--precision", "fp32,int8"]
    compare = ["compare", *pair, "--engine", "openvino", "--blocks", "6"]
    assert printed(capsys, *compare, "--json")["precisions"] == ["fp32", "int8"]
    assert main(compare) == 0
    assert "tiny:Tiny, int8" in capsys.readouterr().out
    explained = printed(capsys, "explain", *pair, "--calls", "3", "--json")
    assert explained["precisions"] == ["fp32", "int8"]
    kinds = [kind for kind, (before, after) in explained["kinds_ms"].items() if after and not before]
    assert any("I8" in kind or "i8" in kind for kind in kinds)
    assert main(["explain", *pair, "--calls", "3"]) == 0
    assert "kernel of openvino, ms" in capsys.readouterr().out


@pytest.mark.usefixtures("steady")
def test_a_plan_is_for_the_times_in_int8(
    capsys: pytest.CaptureFixture[str], colours: Path, learnt: list[str], tmp_path: Path
) -> None:
    out = ["--data", f"npz:{colours}", "--device", "cpu", "--images", "60", "--out", str(tmp_path / "plan")]
    plan = ["plan", *learnt, *out, "--target-speedup", "3.1", "--int8"]
    result = printed(capsys, *plan, "--json")
    assert result["made_on"]["precision"] == "int8"
    assert result["speedup"][1] >= 3.1
    written = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert written["speedup_same_precision"] == result["speedup_same_precision"]
    assert main(plan) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "times as fast" in words
    assert "in openvino and int8 as the original in fp32, for a target of 3.1" in words
    assert "Over the original in int8, too: 1.0" in words


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["evaluate", "absent.onnx", "--data", "digits"], "there is no file absent.onnx"),
        (["evaluate", "tiny:Tiny", "--engine", "openvino", "--data", "digits"], "--engine is for exported files"),
        (["evaluate", "FILE", "--weights", "FILE", "--data", "digits"], "leave out --weights"),
        (["evaluate", "FILE", "--data", "digits"], "onnxruntime cannot run the network"),
        (["compare", "FILE", "tiny:Tiny", "--engine", "eager"], "--engine"),
        (
            ["compare", "tiny:Tiny", "tiny:Tiny", "--input-shape", "3,9,9", "--precision", "fp32,int8"],
            "eager has no int8",
        ),
        (["compare", "tiny:Tiny", "tiny:Tiny", "--precision", "int4"], "'int4' is not one of fp32, bf16, int8"),
        (["compare", "tiny:Tiny", "tiny:Tiny", "--precision", "fp32,int8,bf16"], "nor two of them, such as fp32,int8"),
        (["count", "FILE"], "is an exported file, which `ghostify evaluate` and `ghostify compare` take"),
        (["export", "tiny:Tiny", "--int8", "--out", "o"], "--int8 needs images"),
        (["export", "tiny:Tiny", "--data", "digits", "--max-accuracy-drop", "1", "--out", "o"], "expected --int8"),
        (["export", "tiny:Tiny", "--calibration", ".", "--out", "o"], "expected --int8 beside it"),
        (["plan", "tiny:Tiny", "--data", "digits", "--target-macs", "0.5", "--int8", "--out", "o"], "leave --int8 out"),
        (
            ["plan", "tiny:Tiny", "--data", "digits", "--target-speedup", "2", "--int8", "--bf16", "--out", "o"],
            "at most one of --int8 and --bf16",
        ),
    ],
)
def test_what_files_and_precisions_cannot_do_is_said_in_a_line(
    arguments: list[str],
    why: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    line = refused(capsys, *("broken.onnx" if part == "FILE" else part for part in arguments))
    assert why in line
    assert [file.name for file in tmp_path.iterdir()] == ["broken.onnx"]
