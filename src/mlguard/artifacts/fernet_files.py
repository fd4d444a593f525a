"""Models that were encrypted with Fernet, to be read once more."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretBytes, SecretStr

from mlguard._files import open_regular
from mlguard._numbers import whole
from mlguard.errors import ConfigurationError, ModelDecryptionError
from mlguard.monitoring.events import record_event

FernetKey: TypeAlias = str | bytes | SecretStr | SecretBytes


def read_fernet_model(
    source: str | os.PathLike[str], key: FernetKey | Sequence[FernetKey], *, max_bytes: int = 2**30
) -> bytes:
    """Decrypt a file that holds one Fernet token, to encrypt it with ``encrypt_model``.

    Fernet has no name, no version and no segments: nothing tells which model the file is, and all of it is in memory at
    once, more than five times. So there is a limit. What is wrong with a file cannot be told either.

    Args:
        source: The file, as ``Fernet(key).encrypt(...)`` wrote it.
        key: The key of Fernet, or several of which any may fit.
        max_bytes: The largest file that is read, in bytes.

    Returns:
        The model, whole.

    Raises:
        ConfigurationError: A key that is none, or a file that is too large or no regular file.
        ModelDecryptionError: Another key, cut short, or altered.
        OSError: The file cannot be read.
    """
    fernet = _fernet(key)
    whole("read_fernet_model(max_bytes=...)", max_bytes, least=1)
    with open_regular(source) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ConfigurationError(
                f"the file is larger than {max_bytes} bytes: read_fernet_model(max_bytes=...) takes larger ones, "
                "and about six times that much memory"
            )
        token = file.read(size)
    name = Path(source).name
    try:
        content = fernet.decrypt(token.strip())
    except InvalidToken:
        reason = "another key than Fernet's, or the file is cut short or altered"
        record_event("model.refused", file=name, reason=reason)
        raise ModelDecryptionError(reason) from None
    record_event("model.decrypted", file=name, format="fernet")
    return content


def _fernet(key: FernetKey | Sequence[FernetKey]) -> MultiFernet:
    keys: object = [key] if isinstance(key, str | bytes | SecretStr | SecretBytes) else key
    fernets = []
    for one in keys if isinstance(keys, Iterable) else ():
        secret = one.get_secret_value() if isinstance(one, SecretStr | SecretBytes) else one
        try:
            fernets.append(Fernet(secret))
        except (TypeError, ValueError, AttributeError):
            fernets.clear()
            break
    if not fernets:
        # Raised out here, because that error may quote the key.
        raise ConfigurationError("a key of Fernet is 32 bytes in base64url, as Fernet.generate_key() makes it")
    return MultiFernet(fernets)
