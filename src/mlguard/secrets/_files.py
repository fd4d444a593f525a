"""One secret in one file, as Docker, Kubernetes and systemd mount them."""

import os
import stat

from mlguard.errors import ConfigurationError
from mlguard.secrets._answers import MAX_SIZE, Missing, Unusable

_NOT_THERE = (FileNotFoundError, NotADirectoryError)


def read_secret_file(path: str, *, within: str | None = None) -> bytes:
    """Read a whole file.

    That others may read it is no reason to refuse it: Docker mounts secrets with mode 0444 and Kubernetes with 0644,
    inside a container where nobody else is. Nor is a foreign owner, since whoever may write to the place of the file
    is its master anyway, and a mount keeps the owner of the host. That *every* user may write to it is a reason.

    Args:
        path: The file. Links are followed.
        within: The folder that links may not lead out of, with its own links resolved.

    Raises:
        Missing: There is no such file.
        Unusable: It cannot be read, or must not be.
    """
    try:
        real = os.path.realpath(path, strict=True)
        if within is not None and os.path.commonpath([real, within]) != within:
            raise Unusable("it is a link that leads out of the directory")
        # A pipe must not be waited for; and what has become a link since is no file of this folder any more.
        descriptor = os.open(real, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
    except _NOT_THERE:
        raise Missing("there is no such file") from None
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        raise Unusable(f"its file cannot be read ({type(error).__name__})") from None
    try:
        _check_mode(os.fstat(descriptor).st_mode)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise Unusable(f"its file cannot be read ({type(error).__name__})") from None
    finally:
        os.close(descriptor)
    if content is None:  # what is no end, and has nothing to say now, such as a log of the kernel
        raise Unusable("its file has nothing to read now")
    if len(content) > MAX_SIZE:
        raise Unusable(f"it is larger than {MAX_SIZE} bytes")
    return content


def read_secret_text(path: str, *, where: str) -> str:
    """The text of a file that somebody has named in a setting, without one line end behind it.

    Args:
        path: The file.
        where: The setting.

    Raises:
        ConfigurationError: It cannot be used. The text names the setting, and nothing of the file.
    """
    try:
        return read_secret_file(path).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeError:  # would hold the content
        reason = "it is not UTF-8"
    except Unusable as error:
        reason = str(error)
    raise ConfigurationError(f"{where} names a file that cannot be used: {reason}")


def _check_mode(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise Unusable("it is no regular file")
    if mode & stat.S_IWOTH:
        raise Unusable("every user of the machine may write to its file; chmod o-w")
