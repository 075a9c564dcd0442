"""A plan comes back from its file, also from one of format 1; what is none is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ghostify import InputError
from ghostify.changes import (
    BlockPlan,
    DepthwiseGhosts,
    Keep,
    LayerPlan,
    MergeInputs,
    OneConvolution,
    PointwiseGhosts,
    Prune,
)
from ghostify.planning.plan_file import Plan, Point, read_plan, write_plan

A_PLAN = Plan(
    {
        "a": LayerPlan(PointwiseGhosts(8, 8)),
        "b": LayerPlan(Prune(4, 12)),
        "c": BlockPlan(OneConvolution(16, 3)),
        "d": BlockPlan(),
        "d.conv1": LayerPlan(Keep(16), MergeInputs(4)),
        "d.conv2": LayerPlan(DepthwiseGhosts(8, 8, cheap_kernel_size=5)),
    },
    ("speedup", 1.5),
    0.6,
    0.01,
    2.5,
    (1.55, 1.5, 1.6),
    (Point(0.6, 1.5, 0.01), Point(1.0, None, 0.0)),
    {"engine": "openvino", "threads": 2},
)
FORMAT_1 = {
    "format": "ghostify plan 1",
    "target": {"speedup": 1.5},
    "macs": 0.6,
    "harm": 0.01,
    "limit": 2.5,
    "speedup": [1.55, 1.5, 1.6],
    "made_on": {"engine": "openvino", "threads": 2},
    "curve": [{"macs": 0.6, "speedup": 1.5, "harm": 0.01}, {"macs": 1.0, "speedup": None, "harm": 0.0}],
    "layers": {
        "a": {"kept": 8, "ghosted": 8, "dropped": 0, "cheap": "pointwise", "merged": None},
        "b": {"kept": 4, "ghosted": 0, "dropped": 12, "cheap": None},
        "c": {"kept": 0, "ghosted": 16, "dropped": 0, "cheap": "convolution", "merged": None},
        "c.conv1": {"kept": 0, "ghosted": 0, "dropped": 16, "cheap": None, "merged": None},
        "d": {"kept": 16},
        "d.conv1": {"kept": 16, "ghosted": 0, "dropped": 0, "cheap": None, "merged": 4},
        "d.conv2": {"kept": 8, "ghosted": 8, "dropped": 0, "cheap": "depthwise", "merged": None},
        "e": {"kept": 8, "ghosted": 8},
        "f": {"kept": 8, "ghosted": 8, "merged": 4},
        "g": {"kept": 4, "ghosted": 8, "dropped": 4, "cheap": "pointwise"},
        "h": {"kept": 0, "ghosted": 8},
    },
}


def test_a_speed_over_the_original_in_the_same_precision_comes_back(tmp_path: Path) -> None:
    write_plan(replace(A_PLAN, speedup_same_precision=(1.2, 1.1, 1.3)), tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json").speedup_same_precision == (1.2, 1.1, 1.3)


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    write_plan(A_PLAN, tmp_path / "plan.json")
    assert vars(read_plan(tmp_path / "plan.json")) == vars(A_PLAN)


def test_a_plan_of_format_1_is_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(FORMAT_1))
    found = read_plan(path)
    assert found.layers == {
        "a": LayerPlan(PointwiseGhosts(8, 8)),
        "b": LayerPlan(Prune(4, 12)),
        "c": BlockPlan(OneConvolution(16, 3)),
        "d": LayerPlan(Keep(16)),
        "d.conv1": LayerPlan(Keep(16), MergeInputs(4)),
        "d.conv2": LayerPlan(DepthwiseGhosts(8, 8)),
        "e": LayerPlan(DepthwiseGhosts(8, 8)),
        "f": LayerPlan(PointwiseGhosts(8, 8), MergeInputs(4)),
        "g": LayerPlan(PointwiseGhosts(4, 8, 4)),
        "h": BlockPlan(OneConvolution(8, 1)),
    }
    assert (found.output_error, found.curve) == (0.01, A_PLAN.curve)
    write_plan(found, path)
    assert vars(read_plan(path)) == vars(found)


def refusal(content: dict[str, Any], path: Path) -> str:
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as refused:
        read_plan(path)
    return str(refused.value)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"kept": "8"}, "expected whole numbers"),
        ({"kept": 0}, "expected at least 1 kept channel"),
        ({"kept": -1}, "expected whole numbers .* none negative"),
        ({"kept": 0, "ghosted": 8, "cheap": "depthwise"}, "expected one of pointwise, convolution"),
        ({"kept": 0, "dropped": 8}, "keeps no channel: expected that only inside a block"),
        ({"kept": 8, "ghosted": 8, "cheap": "magic"}, "cheap is 'magic'"),
        ({"kept": 8, "merged": "4"}, "expected whole numbers of kept, ghosted, dropped and merged"),
        ({"kept": 8, "merged": 0}, "expected at least 1 combination"),
        ({"kept": 8, "ghosted": 8, "cheap": "depthwise", "merged": 4}, "depthwise ghosts take all input channels"),
        ({"kept": 8, "left": 1}, "expected kept, ghosted, dropped, cheap and"),
        ({"kept": 8, "ghosted": 8, "cheap": ["pointwise"]}, r"cheap is \['pointwise'\]"),
        ({"kept": 0, "ghosted": 8, "cheap": {"a": 1}}, "cheap is {'a': 1}"),
    ],
)
def test_an_edited_plan_of_format_1_that_is_none_is_refused(
    layer: dict[str, Any], message: str, tmp_path: Path
) -> None:
    said = refusal(FORMAT_1 | {"layers": {"a": layer}}, tmp_path / "plan.json")
    assert re.search(f"layer 'a'.*{message}", said), said


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (8, "expected 'output' and perhaps 'input', or 'block'"),
        ({"input": {"kind": "merge inputs", "rank": 4}}, "expected 'output'"),
        ({"output": {"kind": "magic", "kept": 8}}, "expected a 'kind' of 'keep', 'prune'"),
        ({"output": {"kind": ["keep"], "kept": 8}}, "expected a 'kind' of 'keep', 'prune'"),
        ({"block": {"kind": {}}}, "expected a 'kind' of 'one convolution'"),
        ({"output": {"kind": "merge inputs", "rank": 8}}, "expected a 'kind' of 'keep', 'prune'"),
        ({"output": {"kind": "prune", "dropped": 8}}, "expected the numbers kept, dropped"),
        ({"output": {"kind": "prune", "kept": 8, "dropped": "8"}}, "dropped is '8': expected a whole number"),
        ({"output": {"kind": "prune", "kept": 8, "dropped": True}}, "dropped is True: expected a whole number"),
        ({"output": {"kind": "prune", "kept": 0, "dropped": 8}}, "at least 1 channel kept"),
        ({"output": {"kind": "pointwise ghosts", "kept": 8, "ghosted": 8, "dropped": -1}}, "at least 1 channel kept"),
        ({"output": {"kind": "keep", "kept": 8, "left": 1}}, "expected the numbers kept"),
        ({"output": {"kind": "keep", "kept": 8}, "input": {"kind": "merge inputs", "rank": 0}}, "1 combination"),
        ({"block": {"kind": "one convolution", "channels": 8, "kernel_size": 2}}, "kernel_size of 1 or 3"),
        ({"block": {"kind": "keep", "kept": 8}}, "expected a 'kind' of 'one convolution'"),
    ],
)
def test_an_edited_plan_that_is_none_is_refused(layer: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(A_PLAN, path)
    said = refusal(json.loads(path.read_text()) | {"layers": {"a": layer}}, path)
    assert re.search(f"layer 'a'.*{message}", said), said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "expected an object with 'format'"),
        ({"layers": {}}, "expected 'layers'"),
        ({"curve": 3}, "expected target, macs"),
        ({"made_on": None}, "expected target, macs"),
        ({"macs": 10**400}, "expected target, macs"),
    ],
)
@pytest.mark.parametrize("former", [True, False])
def test_a_file_that_is_no_plan_is_refused(change: dict[str, Any], message: str, former: bool, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(A_PLAN, path)
    assert message in refusal((FORMAT_1 if former else json.loads(path.read_text())) | change, path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"macs": ' + "1" * 5_000 + "}", "no json", "\xff"])
def test_a_file_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="is no plan"):
        read_plan(path)
