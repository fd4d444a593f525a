"""Comma-separated values after RFC 4180, in UTF-8, with a header row.

A cell is a number, or missing, or a text: nothing is a formula here, and nothing is trimmed. Python's own csv module
reads a line of any length into memory, and lets quotes stand where they may not, so cells are matched one by one.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Any

from mlguard.inputs.broken_rules import broken
from mlguard.inputs.column_names import order_of, ordered_array, ordered_lists
from mlguard.inputs.json_bodies import EXACT_DIGITS, NOT_PROVED, numbers_in, parser_for
from mlguard.inputs.row_rules import RowRules
from mlguard.inputs.sent_rows import SentRows

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CELL = re.compile(r'(?:"((?:[^"]++|"")*+)"|([^",\r\n]*+))(,|\r\n|\n|\Z)')
_NUMBER = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?")
_INTEGER = re.compile(r"[+-]?[0-9]++")
_NUMERALS = b"0123456789+-.eE,\r\n"


class CSVRows:
    """Reads a table with a header row. Where the columns have names, the header's are matched with them.

    Where they have none, the header only must not be numbers: then somebody has left it out, and would miss a row.

    Args:
        rules: What the rows must be.
    """

    def __init__(self, rules: RowRules) -> None:
        self.rules = rules

    def sent(self, body: bytes) -> SentRows:
        """The rows in a body.

        Raises:
            InvalidInputError: A rule of the format is broken (422).
        """
        return self.fast(body) or self.exact(body)

    def fast(self, body: bytes) -> SentRows | None:
        """The rows, or None where they are not proved to be right: those with quotes, texts or empty cells are not.

        Below the header are the characters of numbers, commas and line ends, and nothing else. With each line in
        brackets that is JSON, and its only arrays are the lines. What JSON does not call a number, such as ``.5``, is
        for the exact path.
        """
        if self.rules.text_columns:
            return None
        header, _, rest = body.partition(b"\n")
        header = header.removesuffix(b"\r")
        if b'"' in header or b"\r" in header or header.startswith(_BYTE_ORDER_MARK):
            return None
        if rest.translate(None, _NUMERALS) or rest.count(b"\n") > self.rules.max_rows:
            return None
        *ended, last = rest.split(b"\n")
        lines = [line.removesuffix(b"\r") for line in ended] + [last] * bool(last)
        text = b"[[" + b"],[".join(lines) + b"]]"
        if b"\r" in text:  # a space to JSON, and nothing to CSV
            return None
        try:
            order = self._order(header.decode("utf-8").split(","))
            rows: Any = parser_for(text).parse(text)
            values = numbers_in(rows, self.rules.dtype.kind)
            if [*map(len, rows)] != [self.rules.columns] * len(lines):
                return None
        except NOT_PROVED:
            return None
        return ordered_array(values.reshape(-1, self.rules.columns), order)

    def exact(self, body: bytes) -> SentRows:
        """The same rows as the fast path gives, or the rule that is broken.

        Raises:
            InvalidInputError: A rule of the format is broken (422).
        """
        cells = _cells(_text(body))
        order = self._order([*self._line(cells, "names")])
        texts = {column if order is None else order[column] for column in self.rules.text_columns}
        rows: list[list[float | str | None]] = []
        for first in cells:
            if len(rows) == self.rules.max_rows:
                raise broken("rows")
            line = [*self._line(itertools.chain([first], cells), "columns", len(rows))]
            if len(line) != self.rules.columns:
                raise broken("columns", len(rows))
            rows.append([_value(cell, is_text=place in texts) for place, cell in enumerate(line)])
        if not rows:
            raise broken("empty")
        return ordered_lists(rows, order, self.rules)

    def _order(self, header: list[str]) -> list[int] | None:
        if self.rules.names is None and all(map(_NUMBER.fullmatch, header)):
            raise broken("header")
        return order_of(header, self.rules)

    def _line(self, cells: Iterator[tuple[str, bool]], rule: str, row: int | None = None) -> Iterator[str]:
        """The cells of one line, no more than there may be: so a body cannot fill the memory."""
        for count, (cell, is_last) in enumerate(cells):
            if count == self.rules.columns:
                raise broken(rule, row)
            yield cell
            if is_last:
                return

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI media type object. Where columns have names, an example would have to tell them."""
        described: dict[str, Any] = {"schema": {"type": "string", "description": "A table, and a header row."}}
        row = self.rules.example
        if self.rules.names is None and row is not None:
            header = ",".join(f"column {number}" for number in range(self.rules.columns))
            described["example"] = f"{header}\r\n{','.join(map(repr, row))}\r\n"
        return described


def _text(body: bytes) -> str:
    try:
        text = "" if body.startswith(_BYTE_ORDER_MARK) else body.decode("utf-8")
    except ValueError:  # it holds the body, so nothing is raised from here
        text = ""
    if not text:
        raise broken("csv")
    return text


def _cells(text: str) -> Iterator[tuple[str, bool]]:
    """Each cell, and whether it is the last one of its line."""
    at = 0
    while True:
        found = _CELL.match(text, at)
        if found is None:
            raise broken("csv")
        quoted, plain, end = found.groups()
        yield plain if quoted is None else quoted.replace('""', '"'), end != ","
        at = found.end()
        if not end or (end != "," and at == len(text)):
            return


def _value(cell: str, *, is_text: bool) -> float | str | None:
    """What a cell holds: where the column takes texts, 1 is one too."""
    if not cell:
        return None
    if is_text:
        return cell
    if _INTEGER.fullmatch(cell):
        number = int(cell.lstrip("+-0")[:EXACT_DIGITS] or 0)  # any number of zeros may stand before the first digit
        return -number if cell.startswith("-") else number
    return float(cell) if _NUMBER.fullmatch(cell) else cell
