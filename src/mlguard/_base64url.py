"""Base64url without padding (RFC 4648, section 5), with one spelling for each content."""

import base64
import binascii


def encode(content: bytes) -> str:
    """The text of a content."""
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def decode(text: str) -> bytes | None:
    """The content of a text. None: it is the text of no content, though Python would make something of it."""
    try:
        content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
    return content if encode(content) == text else None
