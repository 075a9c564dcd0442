"""Any folder of photographs is read, and what cannot be read is passed over or said."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ghostify import InputError
from ghostify.data import load_data
from ghostify.data.folder import draw_photographs, find_photographs, no_larger_than
from ghostify.data.images import read_image
from ghostify.data.sources import plain_crop


def photo(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve photographs of all kinds, in folders in folders."""
    (tmp_path / "2024" / "May" / "day.one").mkdir(parents=True)
    photo(1).save(tmp_path / "a.jpg")
    photo(2).save(tmp_path / "B.JPG", "JPEG")
    photo(3).save(tmp_path / "2024" / "c.png")
    photo(4).save(tmp_path / "2024" / "d.webp")
    photo(5).save(tmp_path / "2024" / "May" / "e.BMP", "BMP")
    photo(6).convert("L").save(tmp_path / "2024" / "May" / "grey.jpeg")
    photo(7).convert("RGBA").save(tmp_path / "2024" / "May" / "clear.png")
    photo(8).quantize(16).save(tmp_path / "2024" / "May" / "day.one" / "palette.png", transparency=bytes([0, 255] * 8))
    photo(9).convert("CMYK").save(tmp_path / "2024" / "May" / "day.one" / "print.jpg")
    photo(10).save(tmp_path / "2024" / "f.gif")
    photo(11).save(tmp_path / "2024" / "g.Tiff", "TIFF")
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(40, 30) * 50).save(tmp_path / "deep.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "2024" / "._c.png").write_bytes(b"what another system keeps beside c.png")
    (tmp_path / ".thumbnails").mkdir()
    photo(1).save(tmp_path / ".thumbnails" / "a.png")
    return tmp_path


def drawn(folder: Path, number: int = 100, **options: Any) -> list[Tensor]:
    return list(draw_photographs(folder, number, plain_crop(28, 28), **options).images)


@pytest.mark.parametrize("workers", [0, 2])
def test_photographs_of_all_kinds_are_read(folder: Path, workers: int, recwarn: pytest.WarningsRecorder) -> None:
    assert len(find_photographs(folder)) == 12
    found = draw_photographs(folder, 100, plain_crop(28, 20), workers=workers)
    assert found.passed_over == ()
    assert len(found.images) == 12
    assert all(image.shape == (3, 28, 20) and image.dtype == torch.uint8 for image in found.images)
    assert len({image.numpy().tobytes() for image in found.images}) == 12
    assert [str(warning.message) for warning in recwarn] == []


def test_they_are_cropped_as_the_images_of_a_data_set_are_for_evaluation(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part / "ant").mkdir(parents=True)
        for seed in range(3):
            photo(seed, (50, 70)).save(tmp_path / part / "ant" / f"{seed}.png")
    test = load_data(f"imagefolder:{tmp_path}", image_size=28).test
    evaluated = {test[index][0][0].numpy().tobytes() for index in range(3)}
    assert {image.numpy().tobytes() for image in drawn(tmp_path / "val")} == evaluated


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_photograph_stands_upright(tmp_path: Path, orientation: int) -> None:
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions
    upright, exif = photo(), Image.Exif()
    exif[0x0112] = orientation
    upright.transpose(Image.Transpose(undo[orientation])).save(tmp_path / "a.png", exif=exif)
    stored, turned = (read_image(tmp_path / "a.png", upright=upright) for upright in (False, True))
    assert np.array_equal(np.asarray(turned), np.asarray(upright))
    assert not np.array_equal(np.asarray(stored), np.asarray(upright))  # as data sets are read
    assert torch.equal(drawn(tmp_path)[0], plain_crop(28, 28)(upright))


def test_the_seed_decides_and_all_is_the_most(folder: Path) -> None:
    first, again, other = (torch.stack(drawn(folder, 5, seed=seed)) for seed in (0, 0, 1))
    assert len(first) == 5
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(drawn(folder, 12)) == len(drawn(folder, 13)) == 12
    with pytest.raises(InputError, match="images is 0: expected at least 1"):
        drawn(folder, 0)


def spoil(folder: Path) -> dict[str, Path]:
    broken = {name: folder / f"{name}.jpg" for name in ("empty", "cut", "text", "numbers")}
    photo().save(broken["cut"])
    broken["cut"].write_bytes(broken["cut"].read_bytes()[:700])
    broken["empty"].write_bytes(b"")
    broken["text"].write_text("<html>404 not found</html>")
    broken["numbers"].unlink(missing_ok=True)
    Image.fromarray(np.ones((4, 4), np.float32)).save(broken["numbers"], "TIFF")
    return broken


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_decoded_is_passed_over_and_another_taken(folder: Path, workers: int) -> None:
    broken = spoil(folder)
    everything = draw_photographs(folder, 100, plain_crop(28, 28), at_least=12, workers=workers)
    assert len(everything.images) == 12
    assert sorted(everything.passed_over) == sorted(broken.values())
    some = draw_photographs(folder, 11, plain_crop(28, 28), seed=3, workers=workers)
    assert len(some.images) == 11
    assert len(some.passed_over) in range(1, 5)


def test_too_few_are_refused_with_one_that_cannot_be_decoded(folder: Path) -> None:
    with pytest.raises(InputError, match="holds 12 photographs: expected at least 32"):
        drawn(folder, at_least=32)
    spoil(folder)
    with pytest.raises(InputError, match=r"holds 12 photographs, 4 more cannot be decoded, such as .*\.jpg: expected"):
        drawn(folder, at_least=32)


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 cut", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_a_folder_of_broken_files_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"holds 0 photographs, 1 more cannot be decoded, such as .*a\.jpg") as refused:
        drawn(tmp_path)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "absent is not there: expected a folder of photographs"),
        ("notes.txt", r"notes\.txt is no folder: expected a folder of photographs"),
        ("a.jpg", r"a\.jpg is no folder"),
        ("texts", r"texts holds no photographs: expected files that end in \.jpg, \.jpeg, \.png"),
        ("bare", "bare holds no photographs"),
    ],
)
def test_what_is_no_folder_of_photographs_is_refused(folder: Path, name: str, message: str) -> None:
    (folder / "bare").mkdir()
    (folder / "texts" / "a.jpg").mkdir(parents=True)  # a folder of that name
    (folder / "texts" / "a.heic").write_bytes(b"of a kind that is not read")
    os.mkfifo(folder / "texts" / "pipe.jpg")  # which would never end
    with pytest.raises(InputError, match=message):
        drawn(folder / name)


def test_links_are_followed_once(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "photos").symlink_to(folder)
    (other / "again").symlink_to(folder)
    (folder / "2024" / "back").symlink_to(folder)  # round and round
    (other / "lost.jpg").symlink_to(other / "nowhere.jpg")
    assert len(find_photographs(other)) == len(find_photographs(other / "photos")) == 12


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (300, 2)])
def test_a_photograph_of_any_shape_is_read(tmp_path: Path, size: tuple[int, int]) -> None:
    photo(size=size).save(tmp_path / "a.png")
    [image] = drawn(tmp_path)
    assert image.shape == (3, 28, 28)
    [whole] = draw_photographs(tmp_path, 1, no_larger_than(40, 60)).images
    assert max(whole.shape[1:]) <= 60


def test_ends_that_no_crop_sees_are_left_out_before_an_image_is_resized() -> None:
    long = photo(size=(20, 400))
    whole = np.asarray(long.resize((640, 32), Image.Resampling.BILINEAR).crop((306, 2, 334, 30)))
    assert np.array_equal(plain_crop(28, 28)(long).permute(1, 2, 0).numpy(), whole)


def test_a_detector_gets_photographs_whole_and_no_larger_than_it_makes_them() -> None:
    assert no_larger_than(800, 1333)(photo(size=(40, 30))).shape == (3, 40, 30)
    assert no_larger_than(20, 100)(photo(size=(40, 30))).shape == (3, 27, 20)
    assert no_larger_than(100, 20)(photo(size=(40, 30))).shape == (3, 20, 15)
