"""Which format a model file has: its content says so, and its name must agree."""

from pathlib import PurePath

from mlguard.artifacts.compression import compression_of
from mlguard.errors import ConfigurationError, ModelContentError

_PICKLES = {".pkl", ".pickle", ".joblib"}
_COMPRESSED = {".z": "zlib", ".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".lzma": "lzma", ".lz4": "lz4"}
_OTHERS = {".npy": "npy", ".npz": "npz", ".safetensors": "safetensors", ".onnx": "onnx", ".skops": "skops"}

FORMATS = ("joblib", "pickle", *_OTHERS.values())

_OLD_PICKLE = frozenset(b"(cilI]}dKLFSUVXNGMJTt)")  # with what protocols 0 and 1 begin; they have no mark
_LONGEST_ONNX_VERSION = 0x7F


def format_of(path: PurePath, content: memoryview, *, wanted: str | None) -> str:
    """The format, such as ``"pickle"``, which is that of joblib's files too.

    Args:
        path: Whose suffix must agree.
        content: The file.
        wanted: What the caller says it is, for files with another suffix.

    Raises:
        ModelContentError: No format, or another one than it is said to be.
        ConfigurationError: Nothing says what it is.
    """
    named = _named_by(path, wanted)
    compression = compression_of(content)
    found = _found_in(content) or ("pickle" if compression else "")  # a header of safetensors may begin as zlib does
    if found == "zip":
        found = named if named in ("npz", "skops") else "a zip file"
    if found != named:
        raise ModelContentError(f"the content is {found or 'of no known format'}, and the name says {named}")
    suffix = path.suffix.lower()
    if suffix in _COMPRESSED and compression != _COMPRESSED[suffix]:
        raise ModelContentError(f"the file is compressed by {compression or 'nothing'}, and its name ends in {suffix}")
    return named


def _named_by(path: PurePath, wanted: str | None) -> str:
    suffix = path.suffix.lower()
    by_name = "pickle" if suffix in _PICKLES | set(_COMPRESSED) else _OTHERS.get(suffix)
    if wanted is None:
        if by_name is None:
            raise ConfigurationError(f"say what the file is, by a suffix or by format=...: {', '.join(FORMATS)}")
        return by_name
    if wanted not in FORMATS:
        raise ConfigurationError(f"load_model(format=...) is one of {', '.join(FORMATS)}")
    wanted = "pickle" if wanted == "joblib" else wanted
    if by_name not in (None, wanted):
        raise ConfigurationError(f"load_model(format={wanted!r}): the name of the file says {by_name}")
    return wanted


def _found_in(content: memoryview) -> str:
    start = bytes(content[:16])
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if start.startswith(b"PK\x03\x04"):
        return "zip"
    if len(start) > 2 and start[0] == 0x80 and 2 <= start[1] <= 5:
        return "pickle"
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= len(content) - 8:
        return "safetensors"
    if len(start) > 2 and start[0] == 0x08 and 0 < start[1] <= _LONGEST_ONNX_VERSION:
        return "onnx"
    return "pickle" if start and start[0] in _OLD_PICKLE else ""
