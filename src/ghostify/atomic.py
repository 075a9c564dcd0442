"""Files that are there complete or not at all."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path``; move it there when the block ends well, else remove it.

    The folder is made where it is missing. Written data reaches the disk before the move, so that
    after a crash the old file or the new one is there.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> [file.name for file in folder.iterdir()]
        ['a.txt']
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~current_umask())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: str | os.PathLike[str], *names: str) -> None:
    """Try whether files can be made in a folder, before work is done for them; nothing is left behind.

    Args:
        folder: The folder, which may be missing, as may those around it.
        names: Files to be made in it, or folders where the name ends in "/".
    Raises:
        OSError: If the folder cannot be made or written, or a file is where a folder is to be, or the other way round.
    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> check_writable(folder / "new", "a.txt")
        >>> list(folder.iterdir())
        []
    """
    target = Path(folder)
    place = nearest_there(target)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise type(error)(error.errno, f"no file can be made there ({error.strerror})", str(place)) from error
    for name in names:
        if name.endswith("/"):
            check_writable(target / name)
        elif (target / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target / name))


def nearest_there(path: Path) -> Path:
    """The path itself where there is something, else the nearest folder around it that is there."""
    for place in (path, *path.parents):
        try:
            place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return place
    return Path()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
