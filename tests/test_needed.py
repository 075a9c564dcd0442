"""Messages name the extra that brings a missing package."""

import re
import tomllib
from pathlib import Path

import pytest

from ghostify.errors import InputError
from ghostify.needed import ENGINES_NEED, EXTRAS, PRECISIONS_NEED, refuse_missing

ROOT = Path(__file__).parents[1]


def extras() -> dict[str, set[str]]:
    """The packages of each extra of pyproject.toml, as Python imports them: their names are the same but for dashes."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return {
        extra: {re.split(r"[^\w-]", package)[0].replace("-", "_") for package in packages}
        for extra, packages in listed.items()
    }


def test_each_package_comes_with_the_extra_that_messages_name_and_each_extra_is_known() -> None:
    found = {package: extra for extra, packages in extras().items() for package in packages}
    assert found == EXTRAS
    for needed in (*ENGINES_NEED.values(), *PRECISIONS_NEED.values()):
        assert set(needed) <= EXTRAS.keys()


def test_what_is_missing_is_refused_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghostify.needed.find_spec", lambda package: None if package == "nncf" else object())
    refuse_missing("onnx", "openvino")
    with pytest.raises(InputError, match=r"^int8 needs the package nncf, .*: pip install 'ghostify\[int8\]'$"):
        refuse_missing("onnx", "nncf", needed_by="int8")


def test_documents_and_messages_name_no_other_extra() -> None:
    for file in (*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")):
        for names in re.findall(r"(?:ghostify|pip install '?\.)\[([\w,-]+)\]", file.read_text()):
            assert set(names.split(",")) <= extras().keys(), f"{file}: {names}"
