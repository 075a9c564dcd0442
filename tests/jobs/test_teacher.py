"""A network learns from a teacher, by its answers or by hints."""

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from tiny_training import RECIPE, trained
from torch.utils.data import DataLoader

from ghostify import InputError, create_model
from ghostify.data import load_data
from ghostify.data.augment import normalise
from ghostify.data.images import MemoryImages, join_batches
from ghostify.data.sample import draw_inputs
from ghostify.fitting.refine import apart, ends_distance
from ghostify.jobs.evaluate import evaluate
from ghostify.jobs.train import Teacher, train
from ghostify.structure.blocks import ends_of
from ghostify.transform.match import match_ends


def test_a_teacher_is_learned_from_and_not_changed(colours: Path) -> None:
    teacher = trained(colours, dataclasses.replace(RECIPE, epochs=8, lr=0.02))
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    recipe = dataclasses.replace(RECIPE, epochs=8, lr=0.02, seed=1)
    data = load_data(f"npz:{colours}")
    shuffled = dataclasses.replace(data, train=MemoryImages(data.train.pixels, data.train.labels.roll(1)))
    model = create_model("tiny:Tiny")
    train(model, shuffled, recipe, teacher=Teacher(teacher, weight=1))  # every label is wrong
    assert evaluate(model, data.test, data).top1 > 0.9
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_hints_bring_the_ends_of_blocks_nearer_to_the_teachers(colours: Path) -> None:
    data, recipe = load_data(f"npz:{colours}"), dataclasses.replace(RECIPE, epochs=20, optimizer="adamw", lr=0.01)
    teacher = trained(colours, recipe)
    batches = draw_inputs(data, 60)  # all there are: so each map is matched with the same one as in training

    def ends_apart(hints: bool) -> float:
        torch.manual_seed(1)
        model = create_model("tiny:Tiny")
        ends = match_ends(teacher, model, batches)
        assert list(ends) == ["conv1", "conv2"]
        train(model, data, recipe, teacher=Teacher(teacher, hints=hints))
        assert not any(module._forward_hooks for network in (model, teacher) for module in network.modules())
        with ends_of(teacher, ends) as wanted, ends_of(model, ends) as given, torch.no_grad():
            teacher.eval()(batches[0])
            model.eval()(batches[0])
            return float(ends_distance(given, wanted, ends))

    with_hints, without = ends_apart(True), ends_apart(False)
    assert with_hints < 0.5 * without, (with_hints, without)


def test_hints_hold_a_network_whose_maps_leave_in_another_order(colours: Path) -> None:
    data = load_data(f"npz:{colours}")
    teacher = trained(colours, dataclasses.replace(RECIPE, epochs=20, optimizer="adamw", lr=0.01)).eval()
    model, turned = copy.deepcopy(teacher), torch.arange(16).roll(5)
    with torch.no_grad():
        for name in ("conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"):
            tensor = model.state_dict()[name]
            tensor.copy_(tensor[turned].clone())
        weight = model.get_parameter("conv2.weight")
        weight.copy_(weight[:, turned].clone())
    held = dataclasses.replace(RECIPE, epochs=1, optimizer="adamw", lr=1e-4, freeze_norm=True, augment=False)
    (epoch,) = train(model, data, held, teacher=Teacher(teacher, weight=1, hints=True))
    assert epoch.train_loss < 1e-2, epoch.train_loss


def test_without_a_block_in_common_hints_are_logits(colours: Path) -> None:
    data, recipe = load_data(f"npz:{colours}"), dataclasses.replace(RECIPE, epochs=20, optimizer="adamw", lr=0.01)
    teacher = trained(colours, recipe).eval()
    torch.manual_seed(1)
    wider = create_model("tiny:Tiny", width=32)
    assert match_ends(teacher, wider, draw_inputs(data, 8)) == {}
    pixels, _ = next(iter(DataLoader(data.test, 30, collate_fn=join_batches)))
    x = normalise(pixels, data.mean, data.std)

    def logits_apart() -> float:
        with torch.no_grad():
            return float(apart(wider.eval()(x), teacher(x)))

    before = logits_apart()
    train(wider, data, recipe, teacher=Teacher(teacher, weight=1, hints=True))
    assert logits_apart() < 0.1 * before, (logits_apart(), before)


def test_hints_for_a_network_without_numbers_are_refused_by_its_loss(colours: Path) -> None:
    model = create_model("tiny:Tiny")
    with torch.no_grad():
        model.get_parameter("conv1.weight").fill_(math.nan)
    with pytest.raises(InputError, match="the loss is nan"):
        train(model, load_data(f"npz:{colours}"), RECIPE, teacher=Teacher(create_model("tiny:Tiny"), hints=True))


def test_hints_that_cannot_be_recorded_are_refused(colours: Path) -> None:
    data, recorded = load_data(f"npz:{colours}"), dataclasses.replace(RECIPE, cuda_graph=True)
    with pytest.raises(InputError, match="expected a teacher without hints"):
        train(create_model("tiny:Tiny"), data, recorded, teacher=Teacher(create_model("tiny:Tiny"), hints=True))


def test_a_teacher_that_cannot_teach_this_is_refused(colours: Path, tmp_path: Path) -> None:
    data, place = load_data(f"npz:{colours}"), tmp_path / "checkpoint.pt"
    with pytest.raises(InputError, match="teacher returns 4 logits, the network 3"):
        train(create_model("tiny:Tiny"), data, RECIPE, teacher=Teacher(create_model("tiny:Tiny", num_classes=4)))
    with pytest.raises(InputError, match=r"^weight is 0: expected a weight above 0 to 1$"):
        Teacher(create_model("tiny:Tiny"), weight=0)
    with pytest.raises(InputError, match=r"^temperature is -4: expected one above 0$"):
        Teacher(create_model("tiny:Tiny"), temperature=-4)
    trained(colours, checkpoint=place)
    with pytest.raises(InputError, match="teacher_weight was None"):
        trained(colours, checkpoint=place, resume=True, teacher=Teacher(create_model("tiny:Tiny")))
