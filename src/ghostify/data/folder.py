"""A folder of photographs without classes."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import functional as TF  # torchvision's own spelling

from ghostify.data.images import read_image
from ghostify.errors import InputError, spelled
from ghostify.progress import Progress

ENDINGS = (*IMG_EXTENSIONS, ".gif", ".jfif", ".jpe", ".jp2", ".avif")


@dataclass(frozen=True)
class Drawn:
    """Photographs drawn from a folder.

    Args:
        images: uint8 ``[3, height, width]`` each.
        passed_over: The files on the way that cannot be decoded.
    """

    images: tuple[Tensor, ...]
    passed_over: tuple[Path, ...]


def find_photographs(folder: Path) -> list[Path]:
    """The photographs in a folder and in all folders in it, by the endings of their names, in alphabetical order.

    Hidden files and folders are left out, folders behind links are not.

    Raises:
        InputError: If there is no such folder, or no photograph in it.
    """
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "is not there"
        raise InputError(f"{folder} {what}: expected a folder of photographs")
    found = sorted(path for path in files_in(folder) if path.suffix.lower() in ENDINGS and path.is_file())
    if not found:
        raise InputError(f"{folder} holds no photographs: expected files that end in {', '.join(ENDINGS)}")
    return found


def files_in(folder: Path) -> Iterator[Path]:
    """All files that are not hidden; a folder that is reached on several ways once."""
    seen = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True):
        reached = {os.path.realpath(os.path.join(place, name)): name for name in sorted(folders) if name[0] != "."}
        folders[:] = [name for real, name in reached.items() if real not in seen]
        seen.update(reached)
        yield from (Path(place, name) for name in files if name[0] != ".")


def draw_photographs(
    folder: Path,
    number: int,
    prepare: Callable[[Image.Image], Tensor],
    seed: int = 0,
    *,
    at_least: int = 1,
    workers: int = 0,
    progress: Progress | None = None,
) -> Drawn:
    """Draw photographs from a folder, each at most once; files that cannot be decoded are passed over.

    Args:
        folder: See ``find_photographs``.
        number: Number of photographs, drawn at random; all where there are fewer.
        prepare: Makes uint8 ``[3, height, width]`` of a PIL RGB image, such as ``plain_crop(224, 224)``.
        seed: Seed of the draw.
        at_least: Number below which there are too few.
        workers: Processes that decode.
        progress: Called at each file.
    Raises:
        InputError: If there are too few, or none is asked for.
    """
    if number < 1:
        raise InputError(f"{spelled('images')} is {number}: expected at least 1")
    files = find_photographs(folder)
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
    waiting = iter([files[place] for place in order])
    images: list[Tensor] = []
    passed_over: list[Path] = []
    while chosen := list(islice(waiting, number - len(images))):
        pixels = DataLoader(Decoded(chosen, prepare), batch_size=None, num_workers=min(workers, len(chosen)))
        for path, found in zip(chosen, pixels, strict=True):
            if found is None:
                passed_over.append(path)
            else:
                images.append(found)
            if progress:
                progress("photographs", path.name, len(images), min(number, len(files)))
    if len(images) < min(number, at_least):
        broken = f", {len(passed_over)} more cannot be decoded, such as {passed_over[0]}" if passed_over else ""
        raise InputError(f"{folder} holds {len(images)} photographs{broken}: expected at least {at_least}")
    return Drawn(tuple(images), tuple(passed_over))


class Decoded(Dataset[Tensor | None]):
    """Photographs, decoded when asked for; None for one that cannot be.

    Args:
        files: The photographs.
        prepare: See ``draw_photographs``.
    """

    def __init__(self, files: Sequence[Path], prepare: Callable[[Image.Image], Tensor]) -> None:
        self.files, self.prepare = files, prepare

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of what is odd in a file that it decodes all the same
            try:
                return self.prepare(read_image(self.files[index], upright=True))
            except InputError:
                return None


def no_larger_than(shorter: int, longer: int) -> Callable[[Image.Image], Tensor]:
    """A function from a PIL image to its pixels, uint8 ``[3, height, width]``, shrunk to fit.

    Args:
        shorter: Largest shorter side, pixels.
        longer: Largest longer side, pixels.
    """

    def shrink(image: Image.Image) -> Tensor:
        scale = min(1.0, shorter / min(image.size), longer / max(image.size))
        if scale < 1:
            image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        return TF.pil_to_tensor(image)

    return shrink
