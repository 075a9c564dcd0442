"""The steps of a run, each done once: a second call goes on behind the last that was finished."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from ghostify.atomic import replacing
from ghostify.errors import InputError, spelled
from ghostify.network_file import storable

ABOUT = "run.json"


class Steps:
    """A folder with the result of each step that was finished.

    Every result is read from its file, also where it was just made: so an interrupted run and an undisturbed one go on
    with the same numbers.

    Args:
        folder: The folder.
        about: All that the results depend on; a folder with another one is refused.
    Raises:
        InputError: If the folder holds another run.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder = folder
        wanted = json.loads(json.dumps(about))
        if self.holds(ABOUT):
            known = self.read(ABOUT)
            if known != wanted:
                other = next(name for name in {**known, **wanted} if known.get(name) != wanted.get(name))
                raise InputError(
                    f"{folder.parent} holds another run ({other.replace('_', ' ')}: {known.get(other)}, "
                    f"now {wanted.get(other)}): choose another {spelled('out')}, or remove it"
                )
        else:
            self.write(ABOUT, wanted)

    def holds(self, name: str) -> bool:
        return (self.folder / name).exists()

    def path(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str) -> Any:
        try:
            return json.loads(self.path(name).read_text())
        except ValueError as error:
            raise InputError(f"{self.path(name)} is not what a run wrote there: remove the folder") from error

    def write(self, name: str, values: Any) -> None:
        with replacing(self.path(name)) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n")

    def values(self, name: str, make: Callable[[], Any]) -> Any:
        """JSON values, made where they are not there."""
        if not self.holds(name):
            self.write(name, make())
        return self.read(name)

    def weights(self, name: str, make: Callable[[], nn.Module], shaped: Callable[[], nn.Module]) -> nn.Module:
        """A network, made where it is not there.

        Args:
            shaped: Makes a network of the same layers, for the weights that are read.
        """
        if not self.holds(name):
            state = storable(make().state_dict())
            with replacing(self.path(name)) as temporary:
                save_file(state, temporary)
        model = shaped().cpu()
        model.load_state_dict(load_file(self.path(name)))
        return model.eval()
