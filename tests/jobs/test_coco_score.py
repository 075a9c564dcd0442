"""Boxes score what COCO's own code says, and what can be told by hand."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ghostify.data.coco import Annotations, load_coco
from ghostify.jobs.coco_score import NUMBERS, score_boxes

A, B = 3, 7  # ids with gaps


def annotations(*objects: tuple[int, int, list[float]], images: int = 2, crowd: tuple[int, ...] = ()) -> Annotations:
    """Objects as image, category and box; ``crowd`` are the numbers of those that are crowds."""
    rows = [
        {"id": i + 1, "image_id": image, "category_id": category, "bbox": box, "iscrowd": int(i in crowd)}
        for i, (image, category, box) in enumerate(objects)
    ]
    pictures = [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 100} for i in range(1, images + 1)]
    categories = [{"id": A, "name": "a"}, {"id": B, "name": "b"}]
    return Annotations(Path("x.json"), Path(), {"images": pictures, "annotations": rows, "categories": categories})


def found(image: int, category: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def test_a_shifted_box_counts_up_to_its_overlap() -> None:
    """Two thirds of the union: right at 0.50, 0.55, 0.60 and 0.65, wrong at the six overlaps above."""
    truth = annotations((1, A, [10, 10, 12, 12]))
    score = score_boxes(truth, [found(1, A, [12.4, 10, 12, 12], 0.9)])  # 9.6 of 14.4
    assert score.ap == pytest.approx(0.4)
    assert score.ap50 == pytest.approx(1.0)
    assert score.numbers["AP75"] == 0.0
    assert score.numbers["AP_small"] == pytest.approx(0.4)
    assert score.numbers["AP_large"] is None  # there is none to find
    assert score.categories == {"a": pytest.approx(0.4), "b": None}


def test_a_mislabelled_box_is_one_too_many_there_and_one_missed_here() -> None:
    """Of b the surest box is wrong: half of what is found is right. Of a nothing is found."""
    boxes = [10, 10, 20, 20], [50, 50, 20, 20]
    truth = annotations((1, A, boxes[0]), (1, B, boxes[1]))
    score = score_boxes(truth, [found(1, B, boxes[0], 0.9), found(1, B, boxes[1], 0.8)])
    assert score.categories == {"a": 0.0, "b": pytest.approx(0.5)}
    assert score.ap == pytest.approx(0.25)


def test_a_box_in_a_crowd_is_not_wrong_and_one_in_an_empty_image_is() -> None:
    truth = annotations((1, A, [10, 10, 20, 20]), (1, A, [40, 40, 50, 50]), crowd=(1,))
    right = found(1, A, [10, 10, 20, 20], 0.5)
    assert score_boxes(truth, [right, found(1, A, [45, 45, 10, 10], 0.9)]).ap == pytest.approx(1.0)
    assert score_boxes(truth, [right, found(2, A, [45, 45, 10, 10], 0.9)]).ap == pytest.approx(0.5)


def test_nothing_found_is_zero_and_nothing_to_find_is_unknown() -> None:
    nothing = score_boxes(annotations((1, A, [10, 10, 20, 20])), [])
    assert (nothing.ap, nothing.found, nothing.images) == (0.0, 0, 2)
    unknown = score_boxes(annotations(), [])
    assert set(unknown.numbers.values()) == {None}
    assert unknown.ap == 0.0


def test_an_object_without_area_is_never_found() -> None:
    truth = annotations((1, A, [10, 10, 20, 20]), (1, A, [50, 50, 0, 10]))
    score = score_boxes(truth, [found(1, A, [10, 10, 20, 20], 0.9), found(1, A, [50, 50, 0, 10], 0.8)])
    # Of two objects one is found, with nothing wrong before it: precision 1 up to half of the 101 steps of recall.
    assert score.ap50 == pytest.approx(51 / 101)


def test_what_is_null_is_as_what_is_absent() -> None:
    truth = annotations((1, A, [10, 10, 20, 20]))
    truth.content["annotations"][0] |= {"iscrowd": None, "area": None}
    assert score_boxes(truth, [found(1, A, [10, 10, 20, 20], 0.9)]).numbers["AP_small"] == pytest.approx(1.0)


@pytest.mark.shared
def test_the_truth_fed_back_is_perfect_and_all_else_is_what_the_official_code_says(
    shared: Path, tmp_path: Path
) -> None:
    data = load_coco(f"coco:{shared / 'coco_subset'}")
    truth = data.test.annotations
    assert len(truth.categories) == 80
    fed_back = [
        found(row["image_id"], row["category_id"], row["bbox"], 0.9)
        for row in truth.content["annotations"]
        if not row["iscrowd"]
    ]
    perfect = score_boxes(truth, fed_back)
    assert {name: perfect.numbers[name] for name in ("AP", "AP50", "AP75", "AR_100")} == pytest.approx(
        {"AP": 1.0, "AP50": 1.0, "AP75": 1.0, "AR_100": 1.0}
    )
    assert list(perfect.categories.values()) == pytest.approx([1.0] * 80)

    rng = np.random.default_rng(0)
    ids = list(truth.categories)
    spoiled = []
    for row in fed_back:
        x, y, width, height = row["bbox"]
        box = [x + rng.normal(0, 0.1) * width, y + rng.normal(0, 0.1) * height, width, height]
        category = row["category_id"] if rng.random() > 0.2 else int(rng.choice(ids))
        spoiled.append(found(row["image_id"], category, box, float(rng.random())))
    official = tmp_path / "found.json"
    official.write_text(json.dumps(spoiled))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth.path)
        judge = COCOeval(coco, coco.loadRes(str(official)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    ours = score_boxes(truth, spoiled)
    assert [ours.numbers[name] for name in NUMBERS] == judge.stats.tolist()
    assert 0.1 < ours.ap < 0.9
