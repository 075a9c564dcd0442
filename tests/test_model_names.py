"""The names that are known without PyTorch are those of the builders."""

from ghostify.model_names import BACKBONES, list_detectors, list_models
from ghostify.models import detectors, registry


def test_the_names_are_those_of_the_builders_in_their_order() -> None:
    assert list_models() == list(registry.MODELS)
    assert list_detectors() == list(registry.DETECTORS)
    assert tuple(detectors.BACKBONES) == BACKBONES
