"""What users import is there, and what they do not ask for is not imported."""

import subprocess
import sys

import pytest

import ghostify


@pytest.mark.parametrize("name", ghostify.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(ghostify, name) is not None
    assert name in dir(ghostify)


def test_detectors_have_a_module_of_their_own() -> None:
    assert ghostify.detect.__name__ == "ghostify.detect"
    assert {"train", "evaluate", "predict"} <= set(ghostify.detect.__all__)


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'ghostify' has no attribute 'trian'"):
        ghostify.trian  # noqa: B018  # to be looked up


def test_whoever_converts_imports_no_trainer() -> None:
    code = (
        "import sys, ghostify; ghostify.convert; before = 'ghostify.jobs' in sys.modules; ghostify.train; "
        "print(before, 'ghostify.jobs' in sys.modules, 'matplotlib' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "True", "False"]
