"""How often network files are opened, and which of their tensors are read."""

from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from torch import Tensor


class CountedReads:
    """Stands in front of safetensors and writes down what ``ghostify.network_file`` asks of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[str] = []
        self.tensors: list[str] = []
        reads = self

        class Counted:
            def __init__(self, path: str | Path, **options: Any) -> None:
                reads.opened.append(str(path))
                self.file = safe_open(path, **options)

            def __getattr__(self, name: str) -> Any:
                return getattr(self.file, name)

            def get_tensor(self, name: str) -> Tensor:
                reads.tensors.append(name)
                return self.file.get_tensor(name)

        monkeypatch.setattr("ghostify.network_file.safe_open", Counted)
