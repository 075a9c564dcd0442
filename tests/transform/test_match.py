"""Maps of two networks are matched as they were made to match."""

import torch
from torch import Tensor, nn

from ghostify import convert, create_model
from ghostify.fitting.refine import ends_distance
from ghostify.structure.blocks import ends_of
from ghostify.transform.match import match_ends
from ghostify.transform.narrow import narrow


def images(count: int = 8, size: int = 32) -> list[Tensor]:
    return list(torch.randn(count, 3, size, size).split(4))


def plain(*maps: int) -> nn.Sequential:
    """Convolutions one behind the other, which nothing holds to an order of their maps."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip((3, *maps), maps, strict=False):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(maps[-1], 5)).eval()


def test_residual_networks_have_their_maps_in_order() -> None:
    original = create_model("resnet20")
    ghost = convert(original, skip=["conv1"]).model
    in_order = dict.fromkeys(["conv1", *(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2))])
    assert match_ends(original, original, images()) == in_order
    assert match_ends(original, narrow(original, (3, 32, 32), 20_000_000), images()).keys() == in_order.keys()
    assert match_ends(original, ghost, images()).keys() == in_order.keys()
    assert match_ends(original, create_model("vgg16_cifar"), images()) == {}


def test_each_map_that_was_kept_is_found() -> None:
    original, pruned, kept = plain(8, 8), plain(5, 8), torch.tensor([6, 0, 3, 7, 2])
    with torch.no_grad():
        for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
            pruned.state_dict()[name].copy_(original.state_dict()[name][kept])
        pruned.get_parameter("3.weight").copy_(original.get_parameter("3.weight")[:, kept])
        pruned.get_parameter("3.bias").copy_(original.get_parameter("3.bias"))
    found = match_ends(original, pruned, images())
    assert list(found) == ["0", "3"]
    assert found["0"] is not None
    assert found["0"].tolist() == kept.tolist()


def test_more_maps_than_the_originals_match_none() -> None:
    assert list(match_ends(plain(8, 8), plain(9, 8), images())) == ["3"]


def test_a_ghosts_maps_are_found_in_the_order_in_which_it_makes_them() -> None:
    torch.manual_seed(0)
    original, batches = plain(16, 16, 16), images(64, 16)
    ghost = convert(original, skip=["0"], calibration=batches, cheap="pointwise", effort="fast").model.eval()
    found = match_ends(original, ghost, batches)
    assert any(rows is not None for rows in found.values())  # else the order was not folded, and this shows nothing
    with ends_of(original, found) as wanted, ends_of(ghost, found) as given, torch.no_grad():
        original(batches[0])
        ghost(batches[0])
        assert float(ends_distance(given, wanted, found)) < 0.3
        assert float(ends_distance(given, wanted, dict.fromkeys(found))) > 0.6
