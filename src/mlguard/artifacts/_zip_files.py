"""Opens a zip file strictly: one archive from the first byte to the last, of small files that are named once."""

import io
import struct
import zipfile
import zlib

from mlguard.errors import ModelContentError

_MOST_MEMBERS = 100_000
_END = b"PK\x05\x06"
_END_SIZE = 22  # bytes of the end record, without a comment
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, KeyError, NotImplementedError,
          RuntimeError, OverflowError, UnicodeError, MemoryError)  # fmt: skip  # what zipfile raises for a broken file


def open_zip(content: bytes, *, max_size: int) -> zipfile.ZipFile:
    """Open an archive.

    Args:
        content: The file.
        max_size: Bytes that its files may have altogether, taken out.

    Raises:
        ModelContentError: It is broken, too large, or more than one archive.
    """
    if content[-_END_SIZE : -_END_SIZE + len(_END)] != _END:
        raise ModelContentError("the zip file does not end where the file ends")
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except BROKEN as error:
        raise ModelContentError(f"the zip file is broken ({type(error).__name__})") from None
    members = archive.infolist()
    names = {member.filename for member in members}
    if not members or len(members) > _MOST_MEMBERS or len(names) != len(members):
        raise ModelContentError("the zip file has no files, too many, or two of one name")
    if min(member.header_offset for member in members) != 0:
        raise ModelContentError("something stands before the zip file")
    if any(member.compress_type not in _METHODS or member.flag_bits & 1 for member in members):
        raise ModelContentError("the zip file has a file that is encrypted, or compressed in another way than usual")
    if sum(member.file_size for member in members) > max_size:
        raise ModelContentError(f"the zip file holds more than max_size={max_size} bytes")
    return archive
