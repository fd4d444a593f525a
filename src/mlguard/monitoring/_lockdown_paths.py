"""Which requests a blocked path covers.

Whatever comes after this must not read a path in a way that was not looked at here: a mounted app may decode once more,
fold case, or resolve dots. So a path is looked at in every reading there is, and one that is blocked is enough. What is
refused beyond what was meant is a strange spelling of it.
"""

import posixpath
import re
from collections.abc import Collection, Iterator
from urllib.parse import unquote

from starlette.types import Scope

_DECODINGS = 3  # times that somebody may have encoded it
_LONGEST = (
    4_096  # characters of a strange spelling that is looked at: 64 KiB of them would hold up all others for 0.1 s
)
_INVISIBLE = re.compile(r"[\s\x00-\x20\x7f]+")  # "/predict\n" is the route /predict to a regular expression
_PLAIN = re.compile(r"(/[a-zA-Z0-9_-][a-zA-Z0-9_.-]*)+/?")
_PARAMETERS = re.compile(r";[^/]*")
#: A parameter that may take in slashes, as all but these kinds may.
_MANY_SEGMENTS = re.compile(r"\{[^}]*:(?!(str|int|float|uuid)\})")

Segments = tuple[str, ...]


def pattern_of(path: str) -> Segments:
    """A path or a route's template as what it covers: ``{…}`` is any one segment, ``{…:path}`` all that follows."""
    segments: list[str] = []
    for segment in path.split("/"):
        if _MANY_SEGMENTS.search(segment):
            break
        segments.append("{}" if "{" in segment else segment)
    return _segments("/".join(segments), keeps=False)


def covers(patterns: Collection[Segments], scope: Scope) -> bool:
    """Whether one of the patterns is a request's path, or one above it. So may be what is too long to be looked at."""
    path: str = scope["path"]
    if len(path) > _LONGEST and not _PLAIN.fullmatch(path):
        return bool(patterns)
    readings = {*_readings(scope)}
    return any(_begins(reading, pattern) for pattern in patterns for reading in readings)


def _begins(reading: Segments, pattern: Segments) -> bool:
    if len(reading) < len(pattern):
        return False
    return all(part in {"{}", given} for part, given in zip(pattern, reading, strict=False))


def _readings(scope: Scope) -> Iterator[Segments]:
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    yield from _spellings(path)
    if root:  # whether it stands in the path depends on the proxy and the server
        yield from _spellings(path.removeprefix(root))
        yield from _spellings(root + path)


def _spellings(path: str) -> Iterator[Segments]:
    if _PLAIN.fullmatch(path):  # which has but one reading
        yield tuple(path.casefold().strip("/").split("/"))
        return
    for _ in range(_DECODINGS):
        plain = path.replace("\\", "/")
        readings = {path, plain, posixpath.normpath("/" + plain), _PARAMETERS.sub("", plain)}
        for reading in readings:
            yield _segments(reading, keeps=True)
            yield _segments(reading, keeps=False)
        decoded = unquote(path)
        if decoded == path:
            return
        path = decoded


def _segments(path: str, *, keeps: bool) -> Segments:
    """The parts of a path, in one case.

    Args:
        path: The path.
        keeps: Whether a part that is but a dot or cannot be seen is one: to a router it may be a parameter's value.
    """
    parts = [part for part in path.casefold().split("/") if part]
    plain = [_INVISIBLE.sub("", part) for part in parts]
    if keeps:
        return tuple(part or "." for part in plain)
    return tuple(part for part in plain if part not in {"", "."})
