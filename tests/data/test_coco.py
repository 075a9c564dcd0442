"""Images with boxes are read as COCO means them, and what is broken is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_boxes import make_boxes, make_split
from PIL import Image

from ghostify import InputError
from ghostify.data.coco import CocoImages, changed_at_random, draw_images, load_coco, read_annotations


def test_labels_count_from_one_in_the_order_of_ids_that_have_gaps(tmp_path: Path) -> None:
    data = load_coco(make_boxes(tmp_path))
    assert (data.classes, data.category_ids) == (("red", "blue"), (3, 7))
    image, target = data.train[2]
    assert image.shape == (3, 48, 64)
    assert image.dtype == torch.uint8
    assert target["labels"].tolist() == [1, 2]
    assert int(target["image_id"]) == 30
    (x1, y1, x2, y2), _ = target["boxes"].int().tolist()
    inside = image[:, y1:y2, x1:x2]
    assert int(inside[0].min()) == 250
    assert int(inside[2].max()) < 60


def test_images_may_be_links_or_have_another_name_of_the_same_place(tmp_path: Path) -> None:
    reference = make_boxes(tmp_path)
    (tmp_path / "train2017").rename(tmp_path / "elsewhere")
    (tmp_path / "train2017").mkdir()
    (tmp_path / "train2017" / "linked").symlink_to(tmp_path / "elsewhere")
    annotations = tmp_path / "annotations" / "instances_train2017.json"
    content = json.loads(annotations.read_text())
    for row in content["images"]:
        row["file_name"] = f"./linked/{row['file_name']}"
    annotations.write_text(json.dumps(content))
    assert load_coco(reference).train[0][0].shape == (3, 48, 64)


def test_crowds_and_boxes_without_area_are_no_target_but_stay_in_the_annotations(tmp_path: Path) -> None:
    data = load_coco(make_boxes(tmp_path))
    _, none = data.train[0]
    assert none["boxes"].shape == (0, 4)
    assert none["labels"].shape == (0,)
    _, target = data.train[1]  # a crowd, an object, and one without area
    assert target["labels"].tolist() == [2]
    assert sum(row["image_id"] == 20 for row in data.train.annotations.content["annotations"]) == 3


def test_what_is_held_out_is_not_learnt_from(tmp_path: Path) -> None:
    data = load_coco(make_boxes(tmp_path), hold_out=0.25)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (9, 3, 5)
    parts = [{row["id"] for row in part.annotations.content["images"]} for part in (data.train, data.val)]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {10 * number for number in range(1, 13)}
    for part in (data.train, data.val):
        ids = {row["id"] for row in part.annotations.content["images"]}
        assert {row["image_id"] for row in part.annotations.content["annotations"]} <= ids


def test_a_changed_image_carries_its_boxes_along(tmp_path: Path) -> None:
    """The rectangle in the image is where its box says, whatever was mirrored, scaled and cropped."""
    data = load_coco(make_boxes(tmp_path))
    images = CocoImages(data.train.annotations, changed_at_random(96, 128))  # twice the size
    torch.manual_seed(1)
    boxes = mirrored = 0
    for index in [*range(2, 12)] * 3:
        image, target = images[index]
        assert image.shape == (3, 96, 128)
        for label, (x1, y1, x2, y2) in zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True):
            assert 0 <= x1 < x2 <= 128
            assert 0 <= y1 < y2 <= 96
            bright = (image[0 if label == 1 else 2] > 155).nonzero()
            assert bright[:, 0].min() == pytest.approx(y1, abs=2)
            assert bright[:, 0].max() + 1 == pytest.approx(y2, abs=2)
            assert bright[:, 1].min() == pytest.approx(x1, abs=2)
            assert bright[:, 1].max() + 1 == pytest.approx(x2, abs=2)
            mirrored += label == 1 and x1 > 64
            boxes += 1
    assert boxes > 50
    assert mirrored > 5


def test_other_names_of_the_splits_are_taken(tmp_path: Path) -> None:
    make_split(tmp_path, "learn", 4, 0)
    make_split(tmp_path, "judge", 3, 0)
    data = load_coco(f"coco:{tmp_path}?train=learn&val=judge")
    assert (len(data.train), len(data.test)) == (4, 3)


def test_images_to_calibrate_on_are_drawn_by_the_seed(tmp_path: Path) -> None:
    images = load_coco(make_boxes(tmp_path)).train
    first, again, other = (draw_images(images, 5, seed, batch_size=2) for seed in (0, 0, 1))
    assert [len(batch) for batch in first] == [2, 2, 1]
    assert all(torch.equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))
    assert not all(torch.equal(a, b) for x, y in zip(first, other, strict=True) for a, b in zip(x, y, strict=True))
    assert 0 <= float(first[0][0].min()) < float(first[0][0].max()) <= 1
    with pytest.raises(InputError, match="images is 0: expected at least 1"):
        draw_images(images, 0)


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content.pop(key)


def first(key: str, **changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content[key][0].update(changes)


def twice(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content[key].append(dict(content[key][0]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("categories"), "has no list 'categories'"),
        (lambda content: content.update(images=[]), "has no images: expected at least one"),
        (lambda content: content.update(annotations={"1": {}}), "has no list 'annotations'"),
        (lambda content: content["annotations"].append(3), r"annotations\[\d+\] has no 'id' of type int"),
        (lambda content: content["annotations"][0].pop("bbox"), r"annotations\[0\] has no 'bbox' of type list"),
        (first("images", width="64"), r"images\[0\] has no 'width' of type int"),
        (first("images", file_name="away.png"), "away.png is not there: .* names it"),
        (first("images", file_name="../../secret.png"), "secret.png is not there"),
        (first("images", height=0), "is 64×0: expected at least 1×1"),
        (first("annotations", image_id=99), "annotation 1 is of image 99, which is not in the file"),
        (first("annotations", category_id=4), "annotation 1 is of category 4: expected one of 3, 7"),
        (first("annotations", bbox=[60, 0, 10, 10]), "6 pixels outside 002.png"),
        (first("annotations", bbox=[-2, 0, 10, 10]), "2 pixels outside"),
        (first("annotations", bbox=[0, 0, 10]), "expected x, y, width, height"),
        (first("annotations", bbox=[0, 0, -1, 10]), "expected x, y, width, height"),
        (first("annotations", bbox=[0, 0, float("nan"), 10]), "expected x, y, width, height"),
        (first("annotations", bbox=[0, 0, "10", 10]), "expected x, y, width, height"),
        (twice("images"), "two of images have the id 10"),
        (twice("categories"), "two of categories have the id 7"),
        (first("categories", name="red"), "two of categories have the name 'red'"),
    ],
)
def test_broken_annotations_are_one_clear_line(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = make_split(tmp_path, "train2017", 3, 0)
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as refused:
        read_annotations(tmp_path, "train2017")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"images": [', "is no JSON file, or is cut short"), ("[]", "has no list 'images'"), ("\xff", "is no JSON file")],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = make_split(tmp_path, "train2017", 2, 0)
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=message):
        read_annotations(tmp_path, "train2017")


def test_a_box_that_ends_a_rounding_outside_is_a_box(tmp_path: Path) -> None:
    path = make_split(tmp_path, "train2017", 2, 0)
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [54.5, 0, 10, 10]
    path.write_text(json.dumps(content))
    assert len(read_annotations(tmp_path, "train2017").content["images"]) == 2


def test_a_box_whose_sides_fall_together_in_float32_is_no_target(tmp_path: Path) -> None:
    path = make_split(tmp_path, "train2017", 3, 0)
    content = json.loads(path.read_text())
    [red, blue] = [row for row in content["annotations"] if row["image_id"] == 30]
    red["bbox"] = [40.0, 5, 1e-6, 20]
    path.write_text(json.dumps(content))
    _, target = CocoImages(read_annotations(tmp_path, "train2017"))[2]
    x, y, width, height = blue["bbox"]
    assert target["boxes"].tolist() == [[x, y, x + width, y + height]]
    assert target["labels"].tolist() == [2]


def test_of_one_image_none_is_held_out(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        make_split(tmp_path, split, 1, 0)
    assert len(load_coco(f"coco:{tmp_path}").train) == 1
    with pytest.raises(InputError, match="has one image: expected two or more"):
        load_coco(f"coco:{tmp_path}", hold_out=0.1)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"instances_train2017.json is not there: expected COCO's layout"):
        load_coco(f"coco:{tmp_path}")
    data = load_coco(make_boxes(tmp_path))
    Image.new("RGB", (10, 10)).save(tmp_path / "train2017" / "003.png")
    with pytest.raises(InputError, match=r"003.png is 10×10: .*instances_train2017.json says 64×48"):
        data.train[2]
    (tmp_path / "train2017" / "003.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"003.png cannot be decoded"):
        data.train[2]


@pytest.mark.parametrize("reference", ["coco:", "coco", "npz:x", "coco:x?test=y", "coco:x?train="])
def test_another_reference_is_refused(reference: str) -> None:
    with pytest.raises(InputError, match="there is no data set with boxes"):
        load_coco(reference)


def test_splits_of_different_categories_are_refused(tmp_path: Path) -> None:
    make_boxes(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace('"blue"', '"green"'))
    with pytest.raises(InputError, match=r"have different categories, such as 'blue' \(7\)"):
        load_coco(f"coco:{tmp_path}")
