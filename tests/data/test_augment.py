"""Batched augmentation against one too plain to be wrong."""

import torch

from ghostify.data.augment import normalise, random_crop_flip


def test_each_image_is_some_crop_of_its_padded_self_mirrored_or_not() -> None:
    pixels = torch.randint(1, 256, (40, 3, 5, 7), dtype=torch.uint8)  # 1 at least, so that padding is seen
    out = random_crop_flip(pixels, 2, flip=True)
    assert out.dtype == torch.uint8
    seen = set()
    for image, got in zip(pixels, out, strict=True):
        padded = torch.zeros(3, 9, 11, dtype=torch.uint8)
        padded[:, 2:7, 2:9] = image
        crops = {
            (y, x, mirrored): padded[:, y : y + 5, x : x + 7].flip(2) if mirrored else padded[:, y : y + 5, x : x + 7]
            for y in range(5)
            for x in range(5)
            for mirrored in (False, True)
        }
        matches = [key for key, crop in crops.items() if torch.equal(crop, got)]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) > 20  # of 50: crops differ from image to image
    assert {mirrored for _, _, mirrored in seen} == {False, True}


def test_without_flip_nothing_is_mirrored_and_a_generator_repeats() -> None:
    pixels = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    assert torch.equal(random_crop_flip(pixels, 0, flip=False), pixels)
    draws = [random_crop_flip(pixels, 2, True, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draws)


def test_normalise_is_the_textbook_formula() -> None:
    pixels = torch.randint(0, 256, (2, 3, 2, 2), dtype=torch.uint8)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    expected = (pixels.double() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(normalise(pixels, mean, std), expected.float())
