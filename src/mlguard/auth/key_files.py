"""Files of API keys: TOML for people, JSON for many. They hold digests, never secrets.

A file has one member, ``keys``, a list of entries. In JSON written one entry a line, as ``mlguard keys`` writes it,
100 000 of them are read several times as fast as otherwise.
"""

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import orjson

from mlguard.auth._key_table import KeyTable
from mlguard.auth.key_format import ENVIRONMENTS, find_keys
from mlguard.auth.key_records import APIKey, parse_digest
from mlguard.errors import ConfigurationError

#: What an entry may have. ``comment``, ``created`` and ``env`` are for people.
MEMBERS = frozenset(
    ("id", "key_id", "digest", "scopes", "expires_at", "not_before", "disabled", "limits", "comment", "created", "env")
)
_SECRET_MEMBERS = frozenset({"secret", "key", "api_key", "apikey", "token", "password", "value", "hash"})
_NEW = "a key file holds digests, never secrets; make a key with: mlguard keys new ID --file FILE"
_PLACE = re.compile(r"\(at (line [0-9]+, column [0-9]+|end of document)\)")
_HEAD = re.compile(rb'\s*\{\s*"keys"\s*:\s*\[[ \t\r]*\n')
_TAIL = re.compile(rb"\n\s*\]\s*\}\s*")
_CHUNK = 128  # entries at a time: half a millisecond or so
_BLOCK = 16_384  # bytes at a time of entries that have a line each: the same
_MAX_COMMENT = 200  # characters


def file_format(path: str | os.PathLike[str]) -> str:
    """``".toml"`` or ``".json"``.

    Raises:
        ConfigurationError: The name of the file ends in neither.
    """
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122  # of any kind of path
    if suffix not in {".toml", ".json"}:
        raise ConfigurationError("the name of a file of API keys ends in .toml or .json")
    return suffix


def read_keys(content: bytes, suffix: str, breathe: Callable[[], None] = lambda: None) -> KeyTable:
    """The keys in a file.

    Args:
        content: The file's.
        suffix: ``".toml"`` or ``".json"``.
        breathe: Called now and then, so that others have their turn.

    Raises:
        ConfigurationError: Anything that cannot work. The text says where, and quotes nothing.
    """
    if not content or content.isspace():
        raise ConfigurationError("it is empty; to refuse a key, write disabled = true in its entry")
    if places := find_keys(content):
        line = content.count(b"\n", 0, places[0]) + 1
        raise ConfigurationError(f"line {line} holds a key itself, which must be taken as known to others: {_NEW}")
    keys = KeyTable()
    number = 0
    for entries in entries_of(content, suffix):
        for entry in entries:
            number += 1
            if not keys.add_plain(entry) and not keys.add(read_entry(entry, number)):
                raise ConfigurationError(f"entry {number} has the digest or the key_id of an earlier one")
        breathe()
    if not keys:
        raise ConfigurationError("it has no keys; to refuse a key, write disabled = true in its entry")
    return keys


def read_entry(entry: object, number: int) -> APIKey:
    """The key of one entry.

    Args:
        entry: What the file has.
        number: Which one it is, from 1.

    Raises:
        ConfigurationError: It cannot work. The text says which entry it is, and quotes nothing.
    """
    try:
        return _read_entry(entry)
    except ConfigurationError as error:
        problem = str(error)
    raise ConfigurationError(f"entry {number}: {problem}")


def _read_entry(entry: object) -> APIKey:
    if type(entry) is not dict:
        raise ConfigurationError("is not made of members such as id and digest")
    _check_members(entry)
    digest = entry.get("digest")
    parsed = parse_digest(digest) if isinstance(digest, str) else None
    if parsed is None:
        raise ConfigurationError(f"digest is not sha256:<64 lower-case hex digits>: {_NEW}")
    return APIKey(
        entry.get("id", ""),
        parsed,
        entry.get("scopes", ()),
        _date(entry.get("expires_at")),
        not_before=_date(entry.get("not_before")),
        disabled=entry.get("disabled", False),
        limits=entry.get("limits", ()),
        key_id=entry.get("key_id", ""),
    )


def _check_members(entry: dict[str, Any]) -> None:
    if not _SECRET_MEMBERS.isdisjoint(map(str.lower, entry)):
        raise ConfigurationError(f"has a member for a secret: {_NEW}")
    if not entry.keys() <= MEMBERS:
        raise ConfigurationError(f"has a member that is none of {', '.join(sorted(MEMBERS))}")
    comment = entry.get("comment", "")
    if not isinstance(comment, str) or not comment.isprintable() or len(comment) > _MAX_COMMENT:
        raise ConfigurationError(f"comment is one line of at most {_MAX_COMMENT} characters")
    if entry.get("env", "live") not in ENVIRONMENTS:
        raise ConfigurationError("env is live or test")


def _date(value: object) -> Any:
    """A date as TOML has it, or as text. What is neither is refused with the key."""
    if not isinstance(value, str):
        return value
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return value


# Entries, some at a time ---------------------------------------------------------------------------------------------


def entries_of(content: bytes, suffix: str) -> Iterator[list[Any]]:
    """The entries of a file as they are, some at a time.

    Raises:
        ConfigurationError: It is no valid TOML or JSON, or no list of keys. The text quotes nothing.
    """
    done = 0
    if suffix == ".json":
        entries: list[Any] | None = None
        for entries in _one_a_line(content):
            if entries is None:
                break
            yield entries
            done += len(entries)
        if entries is not None:
            return
    rest = parse_file(content, suffix)[done:]  # what was read so far stands at the beginning
    for start in range(0, len(rest), _CHUNK):
        yield rest[start : start + _CHUNK]


def _one_a_line(content: bytes) -> Iterator[list[Any] | None]:
    """The entries between ``{"keys": [`` and ``]}``, while there is one in each line; then None.

    A sequence of lists without their brackets, each valid by itself, is valid as a whole and means the same.
    """
    end = content.rfind(b"\n", 0, content.rfind(b"]"))
    head = _HEAD.match(content)
    if head is None or end < head.end() or _TAIL.fullmatch(content, end) is None:
        return
    start = head.end()
    while start < end:
        stop = content.find(b"\n", start + _BLOCK, end)
        stop = end if stop < 0 else stop
        block = content[start:stop]
        if stop == end:
            yield _entries_in(block)
        else:
            yield _entries_in(block[:-1]) if block.endswith(b",") else None
        start = stop + 1


def _entries_in(block: bytes) -> list[Any] | None:
    """The entries in some lines, if they have one each and no member twice; else None."""
    try:
        entries: list[Any] = orjson.loads(b"[" + block + b"]")
    except ValueError:
        return None
    # A colon with white space before it is not counted below, so a member could hide behind it.
    if any(space + b":" in block for space in (b" ", b"\t", b"\r", b"\n")):
        return None
    members = sum([len(entry) if type(entry) is dict else -1 for entry in entries])
    return entries if len(entries) == block.count(b"\n") + 1 and members == block.count(b'":') else None


def parse_file(content: bytes, suffix: str) -> list[Any]:
    """The entries of a file, as they are.

    Raises:
        ConfigurationError: It is no valid TOML or JSON, or no list of keys. The text quotes nothing.
    """
    text = _decode(content)
    document = None if text is None else (_parse_json if suffix == ".json" else _parse_toml)(text)
    if isinstance(document, str):
        raise ConfigurationError(document)
    if document is None or document.keys() != {"keys"} or not isinstance(document["keys"], list):
        what = '{"keys": [{...}, ...]}' if suffix == ".json" else "[[keys]] tables"
        raise ConfigurationError(f"it must be UTF-8 and hold {what} and nothing beside")
    return document["keys"]


def _decode(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None  # the exception holds the content, as those below do


def _parse_toml(text: str) -> dict[str, Any] | str:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5 000 digits is a plain ValueError
        place = _PLACE.search(str(error))
    return f"it is no valid TOML, at {place[1] if place else 'an unknown place'}"


def _parse_json(text: str) -> dict[str, Any] | str:
    try:
        document = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        line, column = error.lineno, error.colno
    except _TwiceError:
        return "it has a member twice in one place"
    except (ValueError, RecursionError):
        return "it is no JSON that can be read"
    else:
        return document if isinstance(document, dict) else {}
    return f"it is no valid JSON, at line {line}, column {column}"


class _TwiceError(Exception):
    """A member that is there twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise _TwiceError
    return members
