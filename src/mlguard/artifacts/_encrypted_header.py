"""What stands before the ciphertext of an encrypted model: whose it is, and its wrapped data key.

::

    mlguard encrypted file 1⏎          or "directory", which is packed by tar; the format and its version
    4 fields                           each a length of two bytes, the most significant first, and so many bytes:
        name, version                  UTF-8
        key id                         ASCII
        wrapped data key               AES-256-GCM: 12 bytes of nonce, the encrypted keyset, 16 bytes of tag
    8 bytes                            how many bytes of ciphertext follow, the most significant byte first
    …                                  Tink's AES256_GCM_HKDF_1MB, with the first line, name and version as its
                                       associated data

Whatever stands here besides the wrapped data key is its associated data, so that nothing can be altered.
"""

from dataclasses import dataclass, replace
from struct import Struct
from typing import BinaryIO

from mlguard.artifacts.key_wrapping import ID_LENGTH, ModelKey
from mlguard.errors import ConfigurationError, ModelDecryptionError

_KIND = b"mlguard encrypted "
_FORMATS = {False: b"file 1\n", True: b"directory 1\n"}  # by whether it is packed
_LONGEST_LINE = 64
_LONGEST = 255  # bytes of a name or a version
_LONGEST_FIELD = 1_024
_FIELD = Struct(">H")
_LENGTH = Struct(">Q")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a model is called and which version it is. An encrypted file is good for one identity only."""

    name: str
    version: str

    @classmethod
    def checked(cls, name: object, version: object) -> "Identity":
        """The identity that a caller has named.

        Raises:
            ConfigurationError: A name that is no printable text of 1 to 255 bytes; a version that is none either, and
                no whole number from 0 to 2**64 - 1.
        """
        if isinstance(version, int) and not isinstance(version, bool) and 0 <= version < 2**64:
            version = str(version)
        for what, text in (("name", name), ("version", version)):
            if not (isinstance(text, str) and text.isprintable() and 0 < len(text.encode()) <= _LONGEST):
                raise ConfigurationError(f"the {what} of a model is a printable text of 1 to {_LONGEST} bytes")
        return cls(str(name), str(version))

    def __str__(self) -> str:
        return f"{self.name!a} version {self.version!a}"


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an encrypted file before its key is.

    Attributes:
        key_id: Of the key that wraps the data key.
        identity: Of the model.
        packed: Whether the model is a directory.
        length: Bytes of ciphertext behind the header.
        wrapped: The data key.
    """

    key_id: str
    identity: Identity
    packed: bool
    length: int = 0
    wrapped: bytes = b""

    @property
    def body_bound(self) -> bytes:
        """The associated data of what follows: all that stays the same when the data key is wrapped anew.

        The lengths in it keep the names ("a", "bc") and ("ab", "c") apart.
        """
        return _KIND + _FORMATS[self.packed] + _fields(self.identity.name.encode(), self.identity.version.encode())

    def wrapping(self, data_key: bytes, key: ModelKey) -> "Header":
        """The same with this data key, wrapped by this key, and bound to all else that stands in it."""
        header = replace(self, key_id=key.id)
        return replace(header, wrapped=key.wrap(data_key, header._key_bound))

    def unwrap(self, key: ModelKey) -> bytes | None:
        """The data key. None: it or anything else in the header is altered."""
        return key.unwrap(self.wrapped, self._key_bound)

    @property
    def _key_bound(self) -> bytes:
        return self.body_bound + _fields(self.key_id.encode()) + _LENGTH.pack(self.length)

    def __bytes__(self) -> bytes:
        return self.body_bound + _fields(self.key_id.encode(), self.wrapped) + _LENGTH.pack(self.length)

    @classmethod
    def read(cls, file: BinaryIO) -> "Header":
        """Read the header of a file, and no byte behind it.

        Raises:
            ModelDecryptionError: The file is not an encrypted model, or its header is not whole.
        """
        line = file.readline(_LONGEST_LINE)
        if not line.startswith(_KIND):
            raise ModelDecryptionError(
                "the file is no model that mlguard has encrypted, or its first bytes are altered"
            )
        form = line.removeprefix(_KIND)
        if form not in _FORMATS.values():
            raise ModelDecryptionError("the file has a format that this version of mlguard does not know")
        name, version, key_id, wrapped = (_read_field(file) for _ in range(4))
        (length,) = _LENGTH.unpack(_read(file, _LENGTH.size))
        try:
            identity = Identity(name.decode(), version.decode())
            header = cls(key_id.decode("ascii"), identity, form == _FORMATS[True], length, wrapped)
        except UnicodeDecodeError:
            raise ModelDecryptionError("the header is altered: it has bytes that are no text") from None
        if len(key_id) != ID_LENGTH:
            raise ModelDecryptionError("the header is altered: what should be the id of a key is none")
        return header


def _fields(*fields: bytes) -> bytes:
    return b"".join(_FIELD.pack(len(field)) + field for field in fields)


def _read_field(file: BinaryIO) -> bytes:
    (length,) = _FIELD.unpack(_read(file, _FIELD.size))
    if length > _LONGEST_FIELD:
        raise ModelDecryptionError("the header is altered: it has a field that is longer than any may be")
    return _read(file, length)


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ModelDecryptionError("the file is cut short: it ends within its header")
    return data
