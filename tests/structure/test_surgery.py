"""Swapping modules."""

from torch import nn

from ghostify.structure.surgery import module_names, replace_modules_


def test_the_root_itself_can_be_replaced() -> None:
    old, new = nn.ReLU(), nn.GELU()
    assert replace_modules_(old, {old: new}) is new


def test_a_shared_module_is_replaced_under_all_its_names_by_one_object() -> None:
    shared, new = nn.Linear(2, 2), nn.Linear(2, 2)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, shared)})
    replace_modules_(model, {shared: new})
    assert model["a"] is new
    assert list(model["b"]) == [new, new]


def test_a_list_of_layers_beside_their_names_has_the_new_one_too() -> None:
    model, new = nn.Sequential(nn.ReLU()), nn.GELU()
    model.order = [model[0], model[0]]
    replace_modules_(model, {model[0]: new})
    assert model.order == [new, new]


def test_all_names_are_given_the_first_one_first() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(shared, nn.Sequential(shared))
    assert module_names(model)[shared] == ["0", "1.0"]
