"""The first block of the README, as it stands."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small import Blocks

from ghostify.jobs import tune

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"<!-- tests/jobs/test_readme.py runs this block as it stands -->\n```python\n(.*?)```", re.S)


@pytest.mark.usefixtures("steady")
def test_the_readmes_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune, "LEAST_STEPS", 2)
    monkeypatch.setattr("ghostify.jobs.run_settings.Tuning.none", True)  # ten minutes of learning are not for a test
    [block] = BLOCK.findall(README.read_text())
    names: dict[str, Any] = {"model": Blocks().eval(), "data": [torch.randn(50, 3, 8, 8) for _ in range(4)]}
    exec(block, names)  # the document's own code
    assert names["result"].files[0].exists()
    assert isinstance(names["faster"], torch.nn.Module)
    assert "planned 2×" in capsys.readouterr().out
