"""``name#key``: one key of a secret that is a JSON object, the usual form in AWS Secrets Manager."""

import json

from mlguard.secrets._answers import MAX_SIZE, Missing, Unusable


def pick(text: object, key: str | None) -> object:
    """What stands under a key of a secret, or the secret itself.

    Args:
        text: The secret as its store has it.
        key: What stands behind ``#`` in the name. None: there is no ``#``. Empty: the secret as it is, also if it is a
            JSON object, such as a JWK.

    Raises:
        Unusable: It is an object with keys and none is named, or what is to have a key is no object. A guess could
            make all keys of the object one secret.
        Missing: There is no such key.
    """
    if key == "" or not isinstance(text, str | bytes) or len(text) > MAX_SIZE:
        return text
    found = _object(text)
    if key is None:
        if found is None:
            return text
        raise Unusable("it is a JSON object; name one of its keys, as in name#key, or take all of it by name#")
    if found is None:
        raise Unusable("it is no JSON object in which a key could be looked up")
    return choose(found, key)


def choose(found: dict[str, object], key: str) -> object:
    """What stands under a key of an object."""
    if key not in found:
        raise Missing("it has no such key")
    return found[key]


def split(name: str) -> tuple[str, str | None]:
    """The name of a secret and the key within it."""
    path, mark, key = name.partition("#")
    return path, key if mark else None


def _object(text: str | bytes) -> dict[str, object] | None:
    # The quick look first, because most secrets are no JSON: what fails to parse would be kept by the error.
    if text.lstrip()[:1] not in ("{", b"{"):
        return None
    try:
        found = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unusable("it has a key twice")
    return found
