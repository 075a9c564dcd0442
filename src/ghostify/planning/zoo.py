"""Plans that come with the package, for networks that many people have: ``zoo:NAME``."""

from pathlib import Path

from ghostify.errors import InputError

PREFIX = "zoo:"
FOLDER = Path(__file__).with_name("plans")


def zoo_names() -> list[str]:
    """The names of all plans of the zoo, each its network's and the speed.

    Example:
        >>> "mobilenet_v2-1.5x" in zoo_names()
        True
    """
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def plan_path(place: str | Path) -> Path:
    """The file of a plan, which may be named as one of the zoo.

    Args:
        place: A path, or "zoo:NAME".
    Raises:
        InputError: If the zoo has no such plan.
    """
    text = str(place)
    if not text.startswith(PREFIX):
        return Path(place)
    name = text.removeprefix(PREFIX)
    if name not in zoo_names():
        raise InputError(f"the zoo has no plan {name!r}: expected one of {', '.join(zoo_names())}")
    return FOLDER / f"{name}.json"
