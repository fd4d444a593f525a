"""Google's Tink, which encrypts. It is loaded on first use, and only this file knows it."""

from functools import cache
from typing import Any, BinaryIO

from mlguard.errors import ConfigurationError, ModelDecryptionError


@cache
def load_tink() -> Any:
    """The package, with the kinds of keys that are used here made known to it.

    Raises:
        ConfigurationError: The extra ``tink`` is not installed.
    """
    try:
        import tink  # noqa: PLC0415  # an extra
        from tink import aead, streaming_aead  # noqa: PLC0415  # an extra
    except ImportError:
        raise ConfigurationError("encrypting models needs the package tink: pip install 'mlguard[tink]'") from None
    aead.register()
    streaming_aead.register()
    return tink


def aes_256_gcm(key: bytes) -> Any:
    """Tink's AES-256-GCM with this very key, without a prefix before the ciphertext."""
    load_tink()
    from tink import aead  # noqa: PLC0415  # an extra
    from tink.proto import aes_gcm_pb2, tink_pb2  # noqa: PLC0415  # an extra

    data = tink_pb2.KeyData(
        type_url=aead.aead_key_templates.AES256_GCM.type_url,
        value=aes_gcm_pb2.AesGcmKey(version=0, key_value=key).SerializeToString(),
        key_material_type=tink_pb2.KeyData.SYMMETRIC,
    )
    entry = tink_pb2.Keyset.Key(key_data=data, status=tink_pb2.ENABLED, key_id=1, output_prefix_type=tink_pb2.RAW)
    return _parse(tink_pb2.Keyset(primary_key_id=1, key=[entry]).SerializeToString()).primitive(aead.Aead)


def new_data_key() -> bytes:
    """A new keyset for one stream: AES256-GCM-HKDF with segments of 1 MiB."""
    tink = load_tink()
    from tink import secret_key_access, streaming_aead  # noqa: PLC0415  # an extra

    keyset = tink.new_keyset_handle(streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB)
    data_key: bytes = tink.proto_keyset_format.serialize(keyset, secret_key_access.TOKEN)
    return data_key


class EncryptingWriter:
    """Encrypts what is written to it. What it has made is whole only when the block ends without an exception.

    Args:
        file: Where the ciphertext goes. It stays open.
        data_key: A keyset of :func:`new_data_key`.
        bound: Associated data.
    """

    def __init__(self, file: BinaryIO, data_key: bytes, bound: bytes) -> None:
        self._channel = _Channel(file)
        self._stream = _streaming(data_key).new_encrypting_stream(self._channel, bound)

    def __enter__(self) -> "EncryptingWriter":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self._channel.give_up(error)
        try:
            self._stream.close()
        except load_tink().TinkError as failure:
            raise self._channel.cause(failure) or failure from None

    def write(self, data: bytes, /) -> int:
        """Encrypt some more."""
        try:
            self._stream.write(data)
        except load_tink().TinkError as failure:
            raise self._channel.cause(failure) or failure from None
        return len(data)


class DecryptingReader:
    """Decrypts what is read from it. Each byte is right; that the last one was the last is known at the end.

    Args:
        file: Where the ciphertext is, up to its end.
        data_key: As for encrypting.
        bound: As for encrypting.

    Raises:
        ModelDecryptionError: The data key is no keyset for streams.
    """

    def __init__(self, file: BinaryIO, data_key: bytes, bound: bytes) -> None:
        self._channel = _Channel(file)
        try:
            self._stream = _streaming(data_key).new_decrypting_stream(self._channel, bound)
        except load_tink().TinkError:
            raise ModelDecryptionError("what is wrapped in the header is no data key") from None

    def read(self, size: int = -1, /) -> bytes:
        """Read up to so many bytes; none at the end.

        Raises:
            ModelDecryptionError: What follows is not what was encrypted.
        """
        try:
            data: bytes = self._stream.read(size)
        except load_tink().TinkError as failure:
            altered = ModelDecryptionError("the file is altered: its header is right, and what follows is not")
            raise self._channel.cause(failure) or altered from None
        return data


class _Channel:
    """A file as Tink gets it, which stays open when Tink closes its stream, and remembers what went wrong.

    Tink's C++ turns whatever a file raises into an error of its own: a full disk and Ctrl-C would look like a file that
    somebody has altered.
    """

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._fault: BaseException | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except BaseException as fault:
            self._fault = fault
            raise

    def write(self, data: bytes) -> int:
        if self._fault is not None:  # half a model would get the end that makes it look whole
            return len(data)
        try:
            return self._file.write(data)
        except BaseException as fault:
            self._fault = fault
            raise

    def close(self) -> None:
        """Nothing: the file is closed where it was opened."""

    def give_up(self, fault: BaseException) -> None:
        self._fault = self._fault or fault

    def cause(self, failure: Exception) -> BaseException | None:
        """What was behind Tink's error, if it was not the content of the file."""
        if self._fault is None and "KeyboardInterrupt" in f"{failure} {failure.__cause__}":
            return KeyboardInterrupt()  # it came while Tink's own Python was running
        return self._fault


def _streaming(data_key: bytes) -> Any:
    load_tink()
    from tink import streaming_aead  # noqa: PLC0415  # an extra

    return _parse(data_key).primitive(streaming_aead.StreamingAead)


def _parse(keyset: bytes) -> Any:
    from tink import secret_key_access  # noqa: PLC0415  # an extra

    return load_tink().proto_keyset_format.parse(keyset, secret_key_access.TOKEN)
