"""What a source has said: is there a secret in it?"""

import re

#: Bytes of one secret: what AWS and Google keep at most.
MAX_SIZE = 65_536

_BOM = "\ufeff"  # which some editors write first
_PAGE = re.compile(r"\s*<(?:!doctype|!--|\?xml|html|head|body|error)\b", re.IGNORECASE)
# All control characters but the tabulators and line ends of a PEM file.
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Unusable(Exception):  # noqa: N818  # never leaves this package
    """There is no secret in what the source said. The text says why, and quotes nothing of it."""


class Missing(Unusable):
    """The source says that it has none of this name."""


def judged(value: object, *, most: int = MAX_SIZE) -> str:
    """The secret in an answer, without one line end behind it.

    Args:
        value: The answer.
        most: Bytes that it may have in UTF-8.

    Raises:
        Unusable: There is none.
    """
    text = _text(value, most).removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise Unusable("it is empty")
    if _CONTROLS.search(text):
        raise Unusable("it has control characters; keep it as text, in base64 for instance")
    if _PAGE.match(text):
        raise Unusable("it is a page of HTML or XML")
    return text


def _text(value: object, most: int) -> str:
    if not isinstance(value, str | bytes):
        raise Unusable("it is no text")
    try:
        data = value.encode() if isinstance(value, str) else value
        text = data.decode().removeprefix(_BOM) if len(data) <= most else None
    except UnicodeError:  # also half of a surrogate pair, as JSON may have it
        data = None
    if data is None:
        raise Unusable("it is binary; keep it as text, in base64 for instance")
    if text is None:
        raise Unusable(f"it is larger than {most} bytes")
    return text
