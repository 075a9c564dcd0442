"""A layer's maps are looked at by one call."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from ghostify import InputError, convert, create_model, look
from ghostify.data.augment import normalise
from ghostify.data.images import IMAGENET_MEAN, IMAGENET_STD
from ghostify.data.photograph import photograph
from ghostify.jobs.look import look as look_at
from ghostify.network_file import remember_extra

LAYER = "layer1.0.conv1"


def test_a_photograph_is_prepared_for_the_network(tmp_path: Path) -> None:
    model, file = create_model("resnet20"), tmp_path / "grey.png"
    Image.effect_noise((48, 40), 64).convert("RGB").save(file)
    (layer,) = look(model, file, layers=[LAYER])
    pixels = photograph(file, 32, 32)
    (expected,) = look_at(model, normalise(pixels, IMAGENET_MEAN, IMAGENET_STD), [LAYER])
    assert torch.equal(layer.maps, expected.maps)
    (own,) = look(model, file, layers=[LAYER], input_shape=(3, 24, 16), mean=(0, 0, 0), std=(1, 1, 1))
    (expected,) = look_at(model, normalise(photograph(file, 24, 16), (0, 0, 0), (1, 1, 1)), [LAYER])
    assert torch.equal(own.maps, expected.maps)
    remember_extra(model, {"mean": [0, 0, 0], "std": [1, 1, 1], "image_size": 24})
    (kept,) = look(model, file, layers=[LAYER])
    (expected,) = look_at(model, normalise(photograph(file, 24, 24), (0, 0, 0), (1, 1, 1)), [LAYER])
    assert torch.equal(kept.maps, expected.maps)


def test_the_page_is_written_where_there_is_a_folder(tmp_path: Path) -> None:
    model = create_model("resnet20")
    ghost = convert(model, ratio=2).model
    (layer,) = look(model, layers=[LAYER], against=ghost, out=tmp_path / "look")
    assert layer.beside is not None
    assert {file.name for file in (tmp_path / "look").iterdir()} == {"look.html", "look.png", "against.png"}
    assert "resnet20" in (tmp_path / "look" / "look.html").read_text()


def test_networks_without_a_size_or_photographs_are_refused() -> None:
    with pytest.raises(InputError, match="Conv2d does not say how large its inputs are: expected input_shape"):
        look(nn.Conv2d(3, 4, 3))
    with pytest.raises(InputError, match=r"the input shape is \(1, 8, 8\): expected 3 channels"):
        look(nn.Conv2d(1, 4, 3), input_shape=(1, 8, 8))
    with pytest.raises(InputError, match=r"^mean is \(0.5,\): expected three numbers$"):
        look(create_model("resnet20"), mean=(0.5,))
