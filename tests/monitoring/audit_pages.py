"""Reads a report as a strict parser does: whatever is no part of the page's own structure shows."""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

NOW = datetime(2026, 11, 26, 21, tzinfo=UTC)


class Parsed(HTMLParser):
    """What an HTML parser finds in a page.

    Attributes:
        elements: Each element with the names of its attributes, in order.
        texts: Each text.
        values: All values of attributes, by the name of the attribute.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.texts: list[str] = []
        self.values: dict[str, list[str]] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        for name, value in attrs:
            self.values.setdefault(name, []).append(value or "")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        """All text, with the marks that isolate names taken out."""
        return re.sub("[\u2068\u2069\u202f]", lambda mark: " " if mark[0] == "\u202f" else "", "\n".join(self.texts))


def tree(page: str) -> ET.Element:
    """The page as XML: it is well-formed, or this raises."""
    declaration, _, rest = page.partition("\n")
    if declaration != "<!DOCTYPE html>":
        raise ValueError("it does not begin as an HTML page")
    return ET.fromstring(rest)


def spoken(element: ET.Element | None) -> str:
    """All text of an element, as a person reads it."""
    if element is None:
        raise ValueError("there is no such element")
    return re.sub("[\u2068\u2069]", "", "".join(element.itertext())).replace("\u202f", " ")


def heading(page: str, anchor: str) -> str:
    """The heading of a section."""
    return spoken(tree(page).find(f".//section[@id='{anchor}']/h2"))


def section(page: str, anchor: str) -> str:
    """All text of a section."""
    return spoken(tree(page).find(f".//section[@id='{anchor}']"))


def findings(page: str) -> list[str]:
    """The sentences at the top."""
    return [spoken(item) for item in tree(page).findall(".//header/ul/li")]


def log_of(path: Path, records: Iterable[Mapping[str, Any] | str]) -> Path:
    """Write a log of these records, or lines."""
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records), "utf-8")
    return path


def request(time: str = "2026-11-26T20:00:00.000000Z", **members: Any) -> dict[str, Any]:
    """The record of a request that was answered."""
    return {
        "v": 1, "chain": "0123456789abcdef", "seq": 0, "time": time, "event": "request", "request_id": "00ff",
        "principal": {"method": "api-key", "issuer": "", "id": "alice"}, "address": "192.0.2.1", "method": "POST",
        "route": "/predict", "status": 200, "guards": ["APIKeyAuth"], "refused_by": None, "rule": None, "reason": None,
        "rows": 1, "budget_left": {}, "model": {"name": "iris", "version": 3, "digest": "sha256:00"}, "input": None,
        "output": {"labels": {"setosa": 1}, "confidence": {"0.9": 1}}, "latency_ms": 1.5, "mac": "00", **members,
    }  # fmt: skip


def event(name: str, time: str = "2026-11-26T20:00:00.000000Z", **facts: Any) -> dict[str, Any]:
    """The record of another event."""
    return {"v": 1, "chain": "0123456789abcdef", "seq": 0, "time": time, "event": name, "facts": facts, "mac": "00"}
