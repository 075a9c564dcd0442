"""One photograph, as a network gets it."""

from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor

from ghostify.data.images import read_image
from ghostify.data.sources import plain_crop

# A Chinese temple; by danielbuechele, CC BY 2.0.
SAMPLE = "china.jpg"


def photograph(path: str | Path | None, height: int, width: int) -> Tensor:
    """The middle of a photograph.

    Args:
        path: The file; None for a photograph that scikit-learn brings.
    Returns:
        uint8 ``[1, 3, height, width]``.
    Raises:
        InputError: If it cannot be read or decoded.
    """
    image = Image.fromarray(load_sample_image(SAMPLE)) if path is None else read_image(path, upright=True)
    return plain_crop(height, width)(image)[None]
