"""How good boxes are: COCO's twelve numbers, by its own code."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from ghostify.data.coco import Annotations

# In the order of pycocotools' ``stats``.
NUMBERS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)
Found = dict[str, Any]


@dataclass(frozen=True)
class CocoScore:
    """Average precision and recall (Lin et al. 2014, arXiv:1405.0312; cocodataset.org, detection evaluation).

    Args:
        numbers: The twelve by name, 0..1; None where there is no such object.
        categories: AP of each category, 0..1; None of those without objects.
        images: How many were looked at.
        found: How many boxes the detector gave.
    """

    numbers: dict[str, float | None]
    categories: dict[str, float | None]
    images: int
    found: int

    @property
    def ap(self) -> float:
        """Mean over categories and the overlaps 0.50, 0.55, …, 0.95; 0 where there is no object at all."""
        return self.numbers["AP"] or 0.0

    @property
    def ap50(self) -> float:
        """The same at the overlap 0.50."""
        return self.numbers["AP50"] or 0.0


def score_boxes(annotations: Annotations, found: Sequence[Found]) -> CocoScore:
    """Score boxes against what is in the images.

    Args:
        found: COCO's result rows: ``image_id``, ``category_id``, ``bbox`` as x, y, width, height in pixels of the
            image, ``score``.
    Raises:
        ModuleNotFoundError: If pycocotools is not installed.
    """
    judge = evaluated(annotations, found)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        judge.accumulate()
        judge.summarize()
    precision = judge.eval["precision"][:, :, :, 0, -1]  # overlaps, recalls, categories; all areas, most boxes
    names = annotations.categories
    return CocoScore(
        numbers={name: known(value) for name, value in zip(NUMBERS, judge.stats, strict=True)},
        categories={
            names[category]: mean_where_known(precision[:, :, index])
            for index, category in enumerate(judge.params.catIds)
        },
        images=len(annotations.content["images"]),
        found=len(found),
    )


def ap_by_draws(
    annotations: Annotations, found: Sequence[Found], draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the average precision, by draws of as many of the images, with repetition (Efron 1979)."""
    judge = evaluated(annotations, found, areas=1)
    # The matches of each image, by category: a list with one image after the other.
    images = len(annotations.content["images"])
    by_category = [judge.evalImgs[start : start + images] for start in range(0, len(judge.evalImgs), images)]
    drawn = []
    for chosen in np.random.default_rng(seed).integers(images, size=(draws, images)):
        judge.evalImgs = [matches[place] for matches in by_category for place in chosen]
        with contextlib.redirect_stdout(io.StringIO()):
            judge.accumulate()
        drawn.append(mean_where_known(judge.eval["precision"][..., -1]) or 0.0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def evaluated(annotations: Annotations, found: Sequence[Found], areas: int | None = None) -> Any:
    """pycocotools' judge, after it has matched boxes with objects.

    Args:
        areas: Look at the first so many ranges of sizes alone, of which the first is all sizes.
    """
    cocoeval = import_module("pycocotools.cocoeval")
    content = annotations.content
    # Values of null are as good as none.
    present = [{name: value for name, value in row.items() if value is not None} for row in content["annotations"]]
    truth = [{"iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3], **row, "ignore": 0} for row in present]
    boxes = [
        {**row, "id": number + 1, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for number, row in enumerate(found)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        judge = cocoeval.COCOeval(
            indexed({**content, "annotations": truth}), indexed({**content, "annotations": boxes}), "bbox"
        )
        judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:areas], judge.params.areaRngLbl[:areas]
        judge.evaluate()
    return judge


def indexed(content: dict[str, Any]) -> Any:
    """pycocotools' view of a file's content."""
    coco = import_module("pycocotools.coco").COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def known(value: float) -> float | None:
    """pycocotools says -1 where there is nothing to find."""
    return None if value < 0 else float(value)


def mean_where_known(precision: np.ndarray[Any, Any]) -> float | None:
    judged = precision[precision > -1]
    return float(judged.mean()) if judged.size else None
