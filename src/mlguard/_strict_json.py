"""JSON that can be read in one way only: what two parsers read differently is how a signed text is misread."""

import json
from typing import Any, NoReturn


def strict_json(data: bytes) -> Any:
    """Parse a JSON text (RFC 8259).

    Args:
        data: The text, in UTF-8. Whoever calls has bounded its size.

    Raises:
        ValueError: It is no JSON, repeats a member, has a NaN or an infinity, or is nested too deeply.
    """
    try:
        return _DECODER.decode(data.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is repeated")
    return members


def _refuse(_: str) -> NoReturn:
    raise ValueError("no number of JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
