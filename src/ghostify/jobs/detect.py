"""Train detectors, and ask them for boxes."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.ssd import SSD

from ghostify.data.coco import CocoImages, DetectionData, Example, Target, changed_at_random
from ghostify.errors import InputError, spelled
from ghostify.fitting.refine import hints_distance
from ghostify.jobs.accelerator import accelerator_on
from ghostify.jobs.checkpoint import Epoch
from ghostify.jobs.coco_score import CocoScore, Found, score_boxes
from ghostify.jobs.learn import ON_THE_CPU, AfterEpoch, Answer, RunOptions, drops_last, learn
from ghostify.jobs.recipe import Recipe
from ghostify.jobs.train import Teacher
from ghostify.jobs.training import Training, scored_training
from ghostify.jobs.training_folder import TrainingFolder
from ghostify.modes import evaluating
from ghostify.plain_part import Detector, PlainPart, input_shape_of, is_detector, parts_of, what_it_takes
from ghostify.planning.measurements import fingerprint
from ghostify.progress import Progress

Batch = tuple[list[Tensor], list[Target]]
SEEN = (3, 128, 128)  # an image on which a detector is held beside its teacher


def train_detector(
    model: nn.Module,
    data: DetectionData,
    recipe: Recipe,
    *,
    teacher: Teacher | None = None,
    options: RunOptions = ON_THE_CPU,
    progress: Progress | None = None,
    after_epoch: AfterEpoch | None = None,
) -> list[Epoch]:
    """Train a detector on images with boxes, in place; see ``learn`` for what holds of every training.

    With ``recipe.augment`` the images are mirrored, enlarged or shrunk, and cropped at random.

    Args:
        model: A detector of ``create_model`` or torchvision's, for the data's categories; one that finds masks or
            keypoints, too, learns from a teacher alone.
        teacher: Detector to learn from beside the boxes, such as the original of a planned one: by hints, the maps of
            its pyramid and its head's outputs, compared by mean squared error over variance. With a weight of 1 the
            boxes are not learnt.
        options: Device, workers and checkpoint.
        progress, after_epoch: See ``learn``.
    Returns:
        One entry per epoch, those before a resume included.
    Raises:
        InputError: If network, data, recipe, device and checkpoint do not go together, or the loss is no longer
            finite.
    """
    check_detector(model, data)
    for name, unsuited in (("label_smoothing", 0.0), ("color_jitter", 0.0), ("rand_augment", False)):
        if getattr(recipe, name) != unsuited:
            raise InputError(f"{spelled(name)} is for classification: leave it out for a detector")
    others = [kind for kind in ("mask", "keypoint") if getattr(getattr(model, "roi_heads", None), f"{kind}_head", None)]
    if others and (teacher is None or teacher.weight < 1):
        raise InputError(
            f"{type(model).__name__} finds {others[0]}s, too, and there are boxes alone: expected a teacher, by "
            f"{spelled('hints')}, with {spelled('teacher_weight')} of 1"
        )
    settings = {"task": "detection", **what_it_takes(model), **data.identity}
    if teacher is not None:
        check_teacher(model, teacher)
        settings |= {"teacher": fingerprint(teacher.network.state_dict().items()), "teacher_weight": teacher.weight}
    with accelerator_on(options.device, recipe.accumulate) as accelerator:
        if teacher is not None:
            teacher.network.to(accelerator.device).eval()
            if accelerator.num_processes > 1:
                raise InputError(f"{spelled('teacher')}: a detector learns by hints in one process, not in several")
        return learn(
            model,
            Detection(model, data, options.workers, teacher),
            recipe,
            settings=settings,
            options=options,
            accelerator=accelerator,
            progress=progress,
            after_epoch=after_epoch,
        )


def train_and_score_detector(
    model: nn.Module,
    data: DetectionData,
    recipe: Recipe,
    *,
    teacher: Teacher | None = None,
    options: RunOptions = ON_THE_CPU,
    folder: TrainingFolder | None = None,
    settings: Mapping[str, Any],
    progress: Progress | None = None,
) -> Training[CocoScore]:
    """Train a detector in place, score it on the val images, and write all that to a folder where there is one.

    Args:
        folder: Gets the network of the best epoch and of the last, log and history.
        settings: JSON values for the record.
    """
    return scored_training(
        model,
        lambda after_epoch: train_detector(
            model, data, recipe, teacher=teacher, options=options, progress=progress, after_epoch=after_epoch
        ),
        lambda: evaluate_detector(
            model, data.test, data, device=options.device, workers=options.workers, progress=progress
        )[0],
        asdict,
        folder=folder,
        settings=settings,
        device=options.device,
    )


@dataclass(frozen=True)
class Detection:
    """The task: a box and a category for every object."""

    detector: Detector
    data: DetectionData
    workers: int
    teacher: Teacher | None = None

    def loader(self, recipe: Recipe, order: torch.Generator) -> DataLoader[Batch]:
        sizes = self.detector.transform
        change = changed_at_random(sizes.min_size[-1], sizes.max_size) if recipe.augment else None
        images = CocoImages(self.data.train.annotations, change)
        return DataLoader[Any](
            images,
            batch_size=recipe.batch_size,
            shuffle=True,
            generator=order,
            collate_fn=as_lists,
            num_workers=self.workers,
            drop_last=drops_last(len(images), recipe.batch_size),
        )

    def prepare(self, batch: Batch, recipe: Recipe) -> Batch:
        images, targets = batch
        return [as_floats(image) for image in images], targets

    def answer(self, model: nn.Module, batch: Batch) -> Answer:
        images, targets = batch
        weight = 0.0 if self.teacher is None else self.teacher.weight
        loss = torch.zeros((), device=images[0].device)
        if weight < 1:
            losses: dict[str, Tensor] = model(images, targets)
            loss = (1 - weight) * torch.stack([part.float() for part in losses.values()]).sum()
        if self.teacher is not None:
            x = self.detector.transform(images)[0].tensors
            with torch.no_grad():
                expected = PlainPart(self.teacher.network, with_maps=True)(x)
            loss = loss + weight * hints_distance(PlainPart(self.detector, with_maps=True)(x), expected, {}, {}, {})
        return Answer(loss, len(images))

    def networks(self, model: nn.Module, recipe: Recipe) -> list[nn.Module]:
        raise InputError(
            f"{spelled('cuda_graph')}: expected a network that classifies, a detector's images differ in shape"
        )

    def trained_before(self, model: nn.Module) -> nn.Module:
        """The backbone, as pyramid and head are new; all that is to do what a teacher does."""
        return model.get_submodule(parts_of(model)["backbone"]) if self.teacher is None else model

    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Each process looks at its share of the images; all score the boxes of all."""
        if self.data.val is None:
            return {}
        device, share = str(accelerator.device), (accelerator.process_index, accelerator.num_processes)
        mine = find_objects(model, self.data.val, self.data, device=device, workers=self.workers, share=share)
        score = score_boxes(self.data.val.annotations, gather_object(list(mine)))
        return {"val_ap": score.ap, "val_ap50": score.ap50}


def evaluate_detector(
    model: nn.Module,
    images: CocoImages,
    data: DetectionData,
    *,
    device: str = "cpu",
    workers: int = 0,
    progress: Progress | None = None,
) -> tuple[CocoScore, list[Found]]:
    """COCO's twelve numbers on some images, and the boxes they are of."""
    check_detector(model, data)
    found = list(find_objects(model, images, data, device=device, workers=workers, progress=progress))
    return score_boxes(images.annotations, found), found


def find_objects(
    model: nn.Module,
    images: CocoImages,
    data: DetectionData,
    *,
    device: str = "cpu",
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> Iterator[Found]:
    """Ask a detector for the objects in images, one image after the other.

    Args:
        share: Which part of how many of the images to look at.
    Yields:
        COCO's result rows: ``image_id``, ``category_id``, ``bbox`` as x, y, width, height in pixels, ``score``.
    """
    part, parts = share
    mine = Subset(images, range(part, len(images), parts))
    loader = DataLoader(mine, batch_size=None, num_workers=workers)
    for index, (image, target) in enumerate(loader):
        for label, score, box in objects_in(model, image, device, f"image {int(target['image_id'])}"):
            if label > len(data.category_ids):  # a network for more categories than there are
                continue
            yield {
                "image_id": int(target["image_id"]),
                "category_id": data.category_ids[label - 1],
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "score": score,
            }
        if progress:
            progress("look for objects", f"image {index + 1}", index + 1, len(mine))


def objects_in(model: nn.Module, image: Tensor, device: str, name: str) -> list[tuple[int, float, list[float]]]:
    """Label, score 0..1 and box as x1, y1, x2, y2 in pixels of what is found in a uint8 image ``[3, h, w]``."""
    check_sides(model, image, name)
    with evaluating(model), torch.inference_mode():
        (found,) = model([as_floats(image.to(device))])
    return [
        (int(label), float(score), box)
        for label, score, box in zip(
            found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True
        )
        if label > 0  # 0 is the background
    ]


def check_sides(model: Any, image: Tensor, name: str) -> None:
    """Refuse an image of whose shorter side no pixel is left at the size to which a detector brings images."""
    sizes = model.transform
    shorter, longer = sorted(image.shape[1:])
    if shorter * min(sizes.min_size[-1] / shorter, sizes.max_size / longer) < 1:
        raise InputError(
            f"{name} is {image.shape[2]}×{image.shape[1]} pixels, of which the detector makes {sizes.max_size} by "
            f"less than one: expected sides of 1 to {sizes.max_size} at most"
        )


def check_detector(model: nn.Module, data: DetectionData) -> None:
    """Refuse what is no detector, and one for fewer categories than there are."""
    if not is_detector(model):
        raise InputError(
            f"{type(model).__name__} is no detector: expected one such as retinanet_ghostnet_110_fpn, "
            "see `ghostify models`"
        )
    known = categories_of(model)
    if known < len(data.classes):
        raise InputError(f"the detector knows {known} categories: {data.name} has {len(data.classes)}")


@torch.no_grad()
def check_teacher(model: Detector, teacher: Teacher) -> None:
    """Refuse a teacher whose maps and outputs cannot be compared with a detector's."""
    if not teacher.hints:
        raise InputError(f"{spelled('teacher')}: a detector learns by {spelled('hints')}, not by softened answers")
    if not is_detector(teacher.network):
        raise InputError(f"{spelled('teacher')} is a {type(teacher.network).__name__}: expected a detector")
    shapes = []
    for network in (model, teacher.network):
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        with evaluating(network):
            seen = input_shape_of(network) if isinstance(network, SSD) else SEEN  # which knows one size alone
            outputs = PlainPart(network, with_maps=True)(torch.zeros(1, *seen, device=device))
        shapes.append([tuple(output.shape) for output in outputs])
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{spelled('teacher')} makes other maps or boxes than the detector: expected its original, or one like it"
        )


def categories_of(detector: Detector) -> int:
    """Number of kinds of objects that a detector knows."""
    if isinstance(detector, FasterRCNN):
        classes: int = detector.roi_heads.box_predictor.cls_score.out_features
    else:
        head = detector.head.classification_head
        classes = head.num_columns if isinstance(detector, SSD) else head.num_classes
    return classes - 1  # one is the background


def as_floats(image: Tensor) -> Tensor:
    """uint8 to 0..1, as torchvision's detectors take images."""
    return image.float() / 255


def as_lists(examples: list[Example]) -> Batch:
    """Images of several sizes, and their targets."""
    images, targets = zip(*examples, strict=True)
    return list(images), list(targets)
