"""The script that waits for a GPU, tried on the CPU: it goes on where it was killed, and knows what still fits."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SAME = {  # what does not depend on the clock
    "cases": ("case", "state", "why"),
    "trainings": ("case", "part", "network", "epochs", "seed", "macs", "val_top1", "test_top1", "right"),
    "trainings_log": ("case", "part", "train_loss", "val_top1", "images"),
    "plans": ("case", "part", "original", "engine", "images"),
    "inference": ("case", "part", "original", "other", "engine", "precision", "images", "refused"),
    "tests": ("case", "part", "outcome"),
}


def rows(folder: Path, table: str) -> list[dict[str, str]]:
    with (folder / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def begun(out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(BENCHMARKS / "on_gpu.py"), "--mini", "--minutes", "20", "--out", str(out)]
    return subprocess.Popen(command)


def killed_once(out: Path, seen: Callable[[], bool]) -> None:
    """Begin, and kill once something is to be seen."""
    process = begun(out)
    while not seen():
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_between_cases_and_within_one_it_goes_on_to_the_same_results(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert begun(whole).wait() == 0
    assert {row["state"] for row in rows(whole, "cases")} == {"done"}
    assert not any(row["refused"] for row in rows(whole, "inference"))

    def one_is_done() -> bool:
        return (killed / "cases.csv").exists()

    def another_has_begun() -> bool:
        return len(list((killed / "work").glob("*.pt"))) == 2

    killed_once(killed, one_is_done)
    assert len(rows(killed, "cases")) == 1

    def a_plan_has_begun() -> bool:
        return any((killed / "plans").glob("*.jsonl"))

    killed_once(killed, another_has_begun)
    assert len(rows(killed, "cases")) == 1
    killed_once(killed, a_plan_has_begun)
    assert len(rows(killed, "cases")) == 2
    assert begun(killed).wait() == 0
    for table, columns in SAME.items():
        expected, found = (
            sorted(tuple(row.get(name, "") for name in columns) for row in rows(folder, table))
            for folder in (whole, killed)
        )
        assert found == expected, table


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Any]:
    """A machine of four cores, with the seconds that it has."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    side_by_side = pytest.importorskip("side_by_side")
    monkeypatch.setattr(side_by_side, "PROBE", 0.2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    return lambda seconds: side_by_side.Machine(tmp_path, seconds, lambda: nullcontext("sleep"), afresh=False)


def test_cases_go_beside_each_other_where_that_is_faster(machine: Callable[[float], Any], tmp_path: Path) -> None:
    from_sleepers = pytest.importorskip("sleepers")
    several = [from_sleepers.sleeper(f"sleeper {number}", 150) for number in range(3)]
    machine(300).run([*several, from_sleepers.sleeper("alone", 20, shares=False)])
    found = {row["case"]: row for row in rows(tmp_path, "cases")}
    assert {row["state"] for row in found.values()} == {"done"}
    assert max(int(found[case.name]["beside"]) for case in several) > 1
    assert max(float(found[case.name]["throughput"]) for case in several) > 1.05
    assert (found["alone"]["beside"], found["alone"]["shared_by"]) == ("1", "")
    assert [row["part"] for row in rows(tmp_path, "slept") if row["case"] == "alone"] == ["first", "second"]


def test_what_no_longer_fits_is_left_out_and_what_failed_is_tried_again_last(
    machine: Callable[[float], Any], tmp_path: Path
) -> None:
    sleepers = pytest.importorskip("sleepers")
    cases = [sleepers.refuser("refuser"), sleepers.sleeper("long", 100_000), sleepers.sleeper("short", 20)]
    for _ in range(2):
        machine(60).run(cases)
        found = {row["case"]: row for row in rows(tmp_path, "cases")}
        assert [row["state"] for row in found.values()].count("done") == 1
        assert found["short"]["state"] == "done"
        assert (found["refuser"]["state"], found["refuser"]["why"]) == ("failed", "nothing can be done")
        assert found["long"]["state"] == "left out"
        assert found["long"]["why"].startswith("it would take ")
        assert float(found["long"]["estimated_s"]) > 1000
    assert list(found) == ["short", "long", "refuser"]  # in the order of their last ends


def test_equal_shares_end_when_small_steps_say_so(machine: Callable[[float], Any]) -> None:
    ends = pytest.importorskip("side_by_side").ends
    seconds, throughput = [3.0, 1.0, 2.5], {1: 1.0, 2: 1.5, 3: 1.7}
    left, expected, now = list(seconds), [0.0] * 3, 0.0
    while any(left):
        still = sum(rest > 0 for rest in left)
        now += 1e-4
        for index, rest in enumerate(left):
            if rest > 0:
                left[index] = max(0.0, rest - 1e-4 * throughput[still] / still)
                expected[index] = now
    assert ends(seconds, throughput.__getitem__) == pytest.approx(expected, abs=1e-2)


def test_sheets_of_images_are_read_row_by_row_and_labelled_by_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    unpacked = pytest.importorskip("gpu_cases").unpacked
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 160, 3), np.uint8)
    for sheet, name in zip(pixels, ("train_0", "train_1", "test"), strict=True):
        Image.fromarray(sheet).save(tmp_path / f"{name}.webp", lossless=True)
    with np.load(unpacked(tmp_path, tmp_path / "work" / "cifar10.npz")) as found:
        assert found["x_train"].shape == (20, 32, 32, 3)
        assert found["y_train"].tolist() == [*range(10), *range(10)]
        # The eighth image of the second sheet: second row, third column.
        assert np.array_equal(found["x_train"][10 + 7], pixels[1, 32:, 64:96])
        assert np.array_equal(found["x_test"][4], pixels[2, :32, 128:])
