"""Data sets are read as they are, and what is wrong with one is said."""

import weakref
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ghostify import InputError
from ghostify.data import ImageData, load_data
from ghostify.data.images import read_image
from ghostify.data.sources import augmented


def test_digits_are_the_same_disjoint_images_each_time() -> None:
    once, twice = load_data("digits", hold_out=0.2), load_data("digits", hold_out=0.2)
    assert torch.equal(once.test.pixels, twice.test.pixels)
    assert len(once.train) + len(once.val) + len(once.test) == 1797
    assert once.train.pixels.shape[1:] == (3, 32, 32)
    assert not once.flip  # a mirrored digit is another one
    counts = [torch.bincount(part.labels) for part in (once.train, once.val, once.test)]
    for part in counts:  # stratified: each digit a tenth
        torch.testing.assert_close(part / part.sum(), torch.full((10,), 0.1, dtype=torch.float), atol=0.011, rtol=0)
    as_rows = {part.numpy().tobytes() for part in once.test.pixels}
    assert not as_rows & {image.numpy().tobytes() for image in once.train.pixels}


def test_npz_pixels_and_labels_come_through_unchanged(colours: Path) -> None:
    data = load_data(f"npz:{colours}")
    with np.load(colours) as stored:
        assert np.array_equal(data.test.pixels.permute(0, 2, 3, 1).numpy(), stored["x_test"])
        assert np.array_equal(data.train.labels.numpy(), stored["y_train"])
    assert data.classes == ("0", "1", "2")
    assert data.val is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "has no y_test"),
        ({"x_train": np.zeros((60, 12, 12, 3), np.float32)}, r"x_train is float32 of shape .* expected uint8"),
        ({"x_train": np.zeros((60, 12, 12), np.uint8)}, "expected uint8"),
        ({"y_train": np.zeros(59, np.int64)}, "60 train images but 59 labels"),
        ({"y_train": np.zeros(0, np.int64)}, "60 train images but 0 labels"),
        ({"y_train": np.full(60, -1)}, "y_train runs from -1 to -1: expected classes from 0 on"),
        ({"y_test": np.full(30, -2)}, "y_test runs from -2 to -2"),
        ({"y_test": np.full(30, 10**9)}, "y_test runs from 1000000000 to 1000000000: .* below 100000"),
        ({"y_train": np.full(60, 2**64 - 1, np.uint64)}, "y_train runs from 18446744073709551615"),
        (
            {"y_train": np.zeros(60)},
            "y_train is float64 of shape .60,.: expected whole numbers .images. or .images, 1.",
        ),
        ({"y_train": np.zeros(60, bool)}, "y_train is bool"),
        ({"y_train": np.zeros(60, "m8[s]")}, "y_train is timedelta64"),
        ({"y_train": np.full(60, "cat")}, "y_train is <U3"),
        (
            {"y_test": np.eye(3, dtype=np.int64)[np.arange(30) % 3]},
            r"y_test is int64 of shape \(30, 3\): expected whole",
        ),
        ({"y_test": np.int64(3)}, r"y_test is int64 of shape \(\)"),
        ({"y_test": np.array([{}] * 30, dtype=object)}, "no readable .npz file of plain arrays"),
        ({"x_test": np.zeros((30, 10, 12, 3), np.uint8)}, "expected one square size"),
        (
            {"x_test": np.zeros((30, 12, 12, 4), np.uint8)},
            r"x_test is uint8 of shape \(30, 12, 12, 4\): expected uint8",
        ),
        (
            {"x_test": np.zeros((30, 3, 12, 12), np.uint8)},
            r"x_test is .* expected uint8 \[images, height, width, 3 or 1\]",
        ),
        ({"x_train": np.zeros((60, 0, 0, 3), np.uint8)}, "x_train is uint8 of shape"),
        ({"x_test": np.zeros((0, 12, 12, 3), np.uint8), "y_test": np.zeros(0, np.int64)}, "x_test is uint8 of shape"),
        ({"x_train": np.array([{"a": 1}], dtype=object)}, "no readable .npz file of plain arrays"),
    ],
)
def test_wrong_arrays_are_refused_with_what_would_be_right(
    colours: Path, changes: dict[str, Any], message: str
) -> None:
    with np.load(colours) as stored:
        arrays = dict(stored) | changes
    np.savez(colours, **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(InputError, match=message):
        load_data(f"npz:{colours}")


@pytest.mark.parametrize(
    ("changes", "classes"),
    [
        ({"y_train": np.arange(60) % 2}, 3),  # the highest class is tested only
        ({"y_test": np.full(30, 7)}, 8),
        ({"y_test": np.zeros(30, np.uint8)}, 3),  # it is trained only
        ({"y_train": (np.arange(60) % 5)[:, None], "y_test": np.full((30, 1), 9, np.int16)}, 10),  # as Keras has them
        ({"y_train": np.zeros(60, np.int32), "y_test": np.zeros(30, np.int32)}, 1),
    ],
)
def test_labels_of_either_part_say_how_many_classes_there_are(
    colours: Path, changes: dict[str, Any], classes: int
) -> None:
    with np.load(colours) as stored:
        arrays = dict(stored) | changes
    np.savez(colours, **arrays)
    data = load_data(f"npz:{colours}")
    assert data.classes == tuple(map(str, range(classes)))
    assert np.array_equal(data.train.labels.numpy(), arrays["y_train"].reshape(-1))
    assert np.array_equal(data.test.labels.numpy(), arrays["y_test"].reshape(-1))


def test_an_npz_that_claims_more_than_fits_is_refused(colours: Path, tmp_path: Path) -> None:
    for shape in (b"(70000, 999999, 9999, 3)", b"(99999999999999999999,)"):
        file = tmp_path / "huge.npz"
        with zipfile.ZipFile(colours) as stored, zipfile.ZipFile(file, "w") as huge:
            for name in stored.namelist():
                content = stored.read(name)
                if name == "x_train.npy":
                    content = content.replace(
                        b"(60, 12, 12, 3), }" + b" " * 20, shape + b", }" + b" " * (35 - len(shape))
                    )
                huge.writestr(name, content)
        with pytest.raises(InputError, match=r"huge\.npz is no readable"):
            load_data(f"npz:{file}")


def test_a_cut_or_absent_npz_is_refused(colours: Path) -> None:
    colours.write_bytes(colours.read_bytes()[:3000])
    with pytest.raises(InputError, match="no readable"):
        load_data(f"npz:{colours}")
    with pytest.raises(InputError, match="is not there"):
        load_data("npz:absent.npz")


@pytest.mark.parametrize("damage", ["a block of no known kind", "a method of compression that there is not"])
def test_a_damaged_compressed_npz_is_refused(colours: Path, damage: str) -> None:
    with np.load(colours) as stored:
        np.savez_compressed(colours, **stored)
    content = bytearray(colours.read_bytes())
    if damage == "a block of no known kind":
        content[30 + int.from_bytes(content[26:28], "little") + int.from_bytes(content[28:30], "little")] = 0xFF
    else:
        content[content.index(b"PK\x01\x02") + 10] = 99
    colours.write_bytes(content)
    with pytest.raises(InputError, match="no readable"):
        load_data(f"npz:{colours}")


@pytest.mark.parametrize("reference", ["digit", "npz:", "digits:x", "coco:x", ""])
def test_an_unknown_data_set_is_refused(reference: str) -> None:
    with pytest.raises(InputError, match="there is no data set"):
        load_data(reference)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of odd images: greyscale, CMYK, palette, a single pixel, animated."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("ant", "bee"):
            place = tmp_path / part / name
            place.mkdir(parents=True)
            photo = Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8))
            photo.save(place / "colour.jpg")
            photo.convert("L").save(place / "grey.png")
            photo.convert("CMYK").save(place / "print.jpg")
            photo.resize((1, 1)).save(place / "pixel.png")
            photo.save(place / "moving.gif", save_all=True, append_images=[photo.rotate(90)])
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_of_odd_images_is_read(folder: Path) -> None:
    data = load_data(f"imagefolder:{folder}", image_size=24, hold_out=0.2)
    assert data.classes == ("ant", "bee")
    assert (len(data.train), len(data.val), len(data.test)) == (8, 2, 10)
    for part in (data.train, data.val, data.test):
        for index in range(len(part)):
            pixels, label = part[index]
            assert pixels.shape == (1, 3, 24, 24)
            assert pixels.dtype == torch.uint8
            assert label.item() in (0, 1)


def test_a_folders_training_images_are_changed_as_asked(folder: Path) -> None:
    data = load_data(f"imagefolder:{folder}", image_size=24)

    def some(data: ImageData) -> Tensor:
        torch.manual_seed(0)
        return torch.cat([data.train[index][0] for index in range(len(data.train))])

    plain = some(data)
    jittered, changed = augmented(data, 0.4, rand_augment=False), augmented(data, 0.0, rand_augment=True)
    assert augmented(data, 0.0, rand_augment=False) is data
    for other in (jittered, changed):
        assert some(other).shape == plain.shape
        assert not torch.equal(some(other), plain)
        assert torch.equal(some(other), some(other))  # a function of the seed
        assert torch.equal(other.test[0][0], data.test[0][0])


@pytest.mark.parametrize("kind", ["imagefolder", "imagenet"])
def test_a_broken_image_is_named(folder: Path, kind: str) -> None:
    broken = folder / "val" / "bee" / "colour.jpg"
    broken.write_bytes(broken.read_bytes()[:300])

    def read_all() -> None:
        data = load_data(f"{kind}:{folder}")
        for index in range(len(data.test)):
            _ = data.test[index]

    with pytest.raises(InputError, match=r"val/bee/colour\.jpg cannot be decoded"):
        read_all()


def test_images_are_not_kept_while_a_folder_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "val"):
        (tmp_path / part / "ant").mkdir(parents=True)
        for number in range(40):
            Image.new("RGB", (1, 1)).save(tmp_path / part / "ant" / f"{number}.png")
    decoded, alive = [], []

    def read(path: str) -> Image.Image:
        image = read_image(path)
        decoded.append(weakref.ref(image))
        alive.append(sum(image() is not None for image in decoded))
        return image

    monkeypatch.setattr("ghostify.data.sources.read_image", read)
    load_data(f"imagefolder:{tmp_path}")
    assert len(decoded) == 80
    assert max(alive) <= 32  # as many threads as a pool has at most, each with one


@pytest.mark.parametrize(("name", "order"), [("grey.png", "<u2"), ("little.tif", "<u2"), ("big.tif", ">u2")])
def test_of_16_bits_of_grey_the_upper_8_are_read(tmp_path: Path, name: str, order: str) -> None:
    grey = np.arange(256).reshape(16, 16)
    Image.fromarray((256 * grey + 37).astype(order)).save(tmp_path / name)
    assert np.array_equal(np.asarray(read_image(tmp_path / name)), np.stack([grey] * 3, 2))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_of_32_bits_are_refused_as_an_image(tmp_path: Path, kind: type) -> None:
    Image.fromarray(np.ones((4, 4), kind)).save(tmp_path / "depth.tif")
    with pytest.raises(InputError, match=r"depth\.tif is decoded to numbers of 32 bits: expected 8 or 16 bits"):
        read_image(tmp_path / "depth.tif")


def test_an_image_with_a_damaged_header_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(b"P6 4 x 255 " + bytes(48))
    with pytest.raises(InputError, match=r"a\.ppm cannot be decoded"):
        read_image(tmp_path / "a.ppm")


def test_folders_that_do_not_go_together_are_refused(folder: Path) -> None:
    (folder / "train" / "bee").rename(folder / "train" / "wasp")
    with pytest.raises(InputError, match="different classes, such as bee, wasp"):
        load_data(f"imagefolder:{folder}")
    with pytest.raises(InputError, match="expected train/ and val/"):
        load_data(f"imagefolder:{folder / 'val'}")


def test_reading_a_text_as_an_image_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"notes\.txt cannot be decoded"):
        read_image(folder / "train" / "ant" / "notes.txt")


def test_the_official_cifar_batches_are_asked_for_where_they_are_not(tmp_path: Path, monkeypatch: Any) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    with pytest.raises(InputError, match="official batches are not there and could not be downloaded"):
        load_data(f"cifar10:{tmp_path}")
