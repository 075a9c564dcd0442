"""No line of a verb's output is longer than 80 characters, whatever it is printed to."""

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from ghostify.cli import main
from ghostify.cli.detect import print_score
from ghostify.cli.output import percent, print_table, say
from ghostify.cli.run import print_run
from ghostify.jobs.coco_score import NUMBERS, CocoScore
from ghostify.jobs.evaluate import Score
from ghostify.jobs.road import Run
from ghostify.jobs.row import Row


def longest(text: str) -> int:
    return max(map(len, text.splitlines()))


@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize(
    "arguments",
    [
        ["count", "resnet20", "--layers"],
        ["convert", "ghostnet_100", "--input-shape", "3,32,32", "--out", "out"],
        ["convert", "mobilenet_v3_large", "--input-shape", "3,32,32", "--layers", "--out", "out"],
        ["convert", "tiny:Tiny", "--data", "DATA", "--images", "40", "--effort", "fast", "--layers", "--out", "out"],
        ["plan", "tiny:Tiny", "--data", "DATA", "--target-macs", "0.7", "--images", "40", "--layers", "--out", "out"],
        ["train", "tiny:Tiny", "--data", "DATA", "--epochs", "1", "--batch-size", "16", "--out", "out"],
        ["evaluate", "tiny:Tiny", "--data", "DATA", "--per-class"],
        ["compare", "tiny:Tiny", "tiny:for_three_classes", "--input-shape", "3,12,12", "--blocks", "6"],
        ["explain", "tiny:Tiny", "--input-shape", "3,12,12", "--calls", "1"],
        ["export", "tiny:Tiny", "--input-shape", "3,12,12", "--out", "out"],
        ["look", "tiny:Tiny", "--input-shape", "3,24,24", "--layer", "conv1", "--out", "out"],
        ["recipes"],
        ["models"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_no_line_is_longer_than_80(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    colours: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([f"npz:{colours.name}" if word == "DATA" else word for word in arguments]) == 0
    assert longest(capsys.readouterr().out) <= 80


def test_the_tables_of_runs_and_detectors_are_no_wider(capsys: pytest.CaptureFixture[str]) -> None:
    name, share, ends = "planned for the drop", 0.98765, {"score_low": 0.97, "score_high": 0.99}
    speeds = {"speedup": 10.17, "speedup_low": 10.02, "speedup_high": 10.31, "ms": 1234.567, "size_mb": 1234.56}
    row = Row(name, "ours", "fp32", share, **ends, agreement=0.99, **speeds, macs=10**10, params=10**8, file="a.onnx")
    told = {"labelled": True, "score": "mean IoU"}
    result = Run(nn.Identity(), (Path("a.onnx"),), (row,), Path("report.html"), ("It is so.",), told)
    print_run(result, Path("out"))
    print_score(CocoScore(dict.fromkeys(NUMBERS, 1.0), {}, 5000, 123_456))
    printed = capsys.readouterr().out
    assert longest(printed) <= 80
    assert all(name in printed.split() for name in NUMBERS)


def test_long_names_are_folded_and_numbers_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    name = ".".join(["features", "denseblock1", "denselayer12", "conv2"] * 3)
    print_table(("layer", "now", "MACs"), [(name, "left: " + "very " * 20, "123,456,789")], left=2)
    lines = capsys.readouterr().out.splitlines()
    assert longest("\n".join(lines)) <= 80
    assert "123,456,789" in lines[1]
    column = lines[0].index("now")
    assert "".join(line[: column - 1].rstrip() for line in lines[1:]) == name


def test_a_sentence_is_wrapped_and_a_path_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/".join(["a-long-folder"] * 8)
    say(f"wrote {path} " + "and so on " * 12)
    lines = capsys.readouterr().out.splitlines()
    assert path in lines
    assert all(len(line) <= 80 for line in lines if line != path)


@pytest.mark.parametrize(("classes", "said"), [(2, False), (3, False), (5, False), (6, True), (10, True)])
def test_top_5_is_said_of_more_than_five_classes_only(
    classes: int, said: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 255, (3 * classes, 8, 8, 3)).astype(np.uint8), np.arange(3 * classes) % classes
    np.savez(tmp_path / "data.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    evaluate = ["evaluate", "tiny:Tiny", "--data", f"npz:{tmp_path / 'data.npz'}", "--device", "cpu", "--per-class"]
    assert main(evaluate) == 0
    assert ("top-5" in capsys.readouterr().out) == said
    score = Score(((3, 1, 2),) * classes)
    assert percent(score.top5) == ("66.7" if said else "–")
