"""What all tests of verbs share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The number of threads, which verbs set, as it was before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
