"""Secrets from a directory with one file for each, as Docker, Kubernetes and systemd mount them."""

import os
import re
import stat

from pydantic import SecretStr

from mlguard.errors import ConfigurationError
from mlguard.secrets._answers import Unusable
from mlguard.secrets._files import read_secret_file
from mlguard.secrets._reading import Reading

_FILES = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,253}", re.ASCII)  # what a key of a Kubernetes Secret may be called
_SWAPS = 3  # looks at a file that may be exchanged while it is looked at


class DirectorySecrets:
    """Secrets from a directory with one file for each, such as ``/run/secrets``.

    Each read looks at the files anew, so a secret that Kubernetes has exchanged is the new one. Links may lead to other
    places in the directory, as Kubernetes' ``..data`` does, and not out of it. Other users may be able to read the
    files (Docker and Kubernetes mount them so, in containers with one user) and may own them. A file to which every
    user may write is refused, and so is a directory where every user may exchange files; a sticky one is not.

    Args:
        path: The directory. It need not be there before the first read.

    Raises:
        ConfigurationError: That is no path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in str(path):
            raise ConfigurationError("DirectorySecrets(path) is the path of a directory")
        self.path = os.path.abspath(path)  # noqa: PTH100  # not resolved: it may be exchanged
        self._reading = Reading(f"dir:{self.path}", names=_FILES)

    def read(self, name: str) -> SecretStr:
        """The content of the file of this name, without one line end behind it.

        Raises:
            SecretUnavailableError: There is none, or it is empty, binary, larger than 64 KiB, no regular file, outside
                the directory, or writable by everybody.
        """
        return self._reading.read(name, self._fetch)

    def _fetch(self, name: str) -> bytes:
        for left in reversed(range(_SWAPS)):
            try:
                folder = self._folder()
                # In the directory as it is now: where the path is a link, the next moment it may lead to another one.
                return read_secret_file(os.path.join(folder, name), within=folder)  # noqa: PTH118  # a str
            except Unusable:  # the old files are taken away a moment after the link was switched
                if not left:
                    raise
        raise AssertionError  # pragma: no cover  # the last round raises

    def _folder(self) -> str:
        try:
            folder = os.path.realpath(self.path, strict=True)
            mode = os.stat(folder).st_mode  # noqa: PTH116  # a str
        except OSError as error:
            raise Unusable(f"the directory cannot be read ({type(error).__name__})") from None
        if not stat.S_ISDIR(mode):
            raise Unusable("it is no directory")
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise Unusable("every user of the machine may write to the directory; chmod o-w")
        return folder

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"
