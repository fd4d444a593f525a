"""What the sections of a report are made of."""

from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from mlguard.monitoring._report_html import Html, element, joined, name_of, shown
from mlguard.monitoring._report_numbers import DASH, of_all, stretch, things, to_the_minute, whole
from mlguard.monitoring._report_plots import COLOURS, Series, Times
from mlguard.monitoring._report_sketches import Heaviest
from mlguard.monitoring._report_totals import Caller, Totals

Key = TypeVar("Key", bound=Hashable)

NOBODY = "not authenticated"
THE_REST = "all others"
IN_A_PLOT = COLOURS - 1
_MARKS = {"lockdown.set": "lockdown", "drift.found": "drift"}


@dataclass(frozen=True)
class Finding:
    """A sentence for the top of the page."""

    text: str
    kind: Literal["", "good", "bad"] = ""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: Its id.
        topic: What it is about.
        heading: What was found, in words.
        body: What is below.
        findings: What of it belongs to the top of the page.
    """

    anchor: str
    topic: str
    heading: str
    body: Html
    findings: tuple[Finding, ...] = ()


def times_of(totals: Totals) -> Times:
    """The axis of time of all pictures."""
    return Times(totals.numbers, totals.width, marks_of(totals))


def marks_of(totals: Totals) -> tuple[tuple[float, str], ...]:
    """What explains much of what is drawn: who was suspected most, the first lockdown, and the first drift."""
    suspects = totals.suspects.ranked()
    marks = [(suspects[0][1].first, "suspicion")] if suspects else []
    known = ((totals.events.entries.get(event), text) for event, text in _MARKS.items())
    return (*marks, *[(entry.first, text) for entry, text in known if entry is not None])


def top_series(
    sketch: Heaviest[Key],
    numbers: range,
    whole_of: Sequence[int],
    spell: Callable[[Key], tuple[str, Html | None]],
    keys: Sequence[Key] | None = None,
) -> list[Series]:
    """The heaviest few over time, and the rest of the whole.

    Args:
        sketch: Of what.
        numbers: Slots of time.
        whole_of: The whole, in each slot.
        spell: The name of a thing in a text, and in HTML: None where we have named it.
        keys: These in the place of the heaviest, each in the colour of its place.
    """
    chosen = [key for key, _ in sketch.ranked()[:IN_A_PLOT]] if keys is None else keys
    series, rest = [], list(whole_of)
    for colour, key in enumerate(chosen):
        if key not in sketch.entries:
            continue
        values = [sketch.entries[key].series.get(number, 0) for number in numbers]
        rest = [left - value for left, value in zip(rest, values, strict=True)]
        name, html = spell(key)
        series.append(Series(name, values, colour, is_ours=html is None, legend=html))
    if any(left > 0 for left in rest):
        series.append(Series(THE_REST, [max(left, 0) for left in rest], COLOURS, is_ours=True))
    return series


def figure(caption: str, *parts: Html | None) -> Html:
    """A plot with what explains it."""
    return element("figure", element("figcaption", caption), *parts)


def table(heads: Sequence[str], rows: Sequence[Sequence[Html]], label: str) -> Html:
    """A table of cells as :func:`cell`, :func:`number` and :func:`head` make them.

    A head that begins with ``#`` stands above numbers, one that begins with ``|`` above bars.
    """
    top = [
        element("th", one.lstrip("#|"), scope="col", class_={"#": "number", "|": "bar-cell"}.get(one[:1]))
        for one in heads
    ]
    body = [element("tr", *row) for row in rows]
    inner = element("table", element("thead", element("tr", *top)), element("tbody", *body))
    return element("div", inner, class_="scroll", tabindex=0, role="region", aria_label=label)


def numbers_behind(times: Times, series: Sequence[Series], spell: Callable[[float], str], label: str) -> Html:
    """The table behind a plot. Slots in which nothing was are left out."""
    rows = [
        [head(times.spell(index)), *(number(_or_dash(one.values[index], spell)) for one in series)]
        for index in range(len(times.numbers))
        if any(one.values[index] for one in series)
    ]
    heads = ["Time (UTC)", *(f"#{one.spoken}" for one in series)]
    return element("details", element("summary", "The numbers"), table(heads, rows, f"{label}: the numbers"))


def head(content: str, note: str | None = None) -> Html:
    """The first cell of a row."""
    if note is None:
        return element("th", content, scope="row")
    return element("th", content, " ", element("span", note, class_="soft"), scope="row")


def cell(content: str, kind: str | None = None) -> Html:
    """A cell of a table."""
    return element("td", content, class_=kind)


def number(content: str) -> Html:
    """A cell with a number."""
    return cell(content, "number")


def moment_cell(at: float) -> Html:
    """A cell with a time, to the minute."""
    return cell(to_the_minute(at), "time")


def text(*parts: str) -> Html:
    """A paragraph."""
    return element("p", *parts)


def note(*parts: str) -> Html:
    """A paragraph that can be left out."""
    return element("p", *parts, class_="soft")


def empty(*parts: str) -> Html:
    """What stands in the place of a picture."""
    return element("p", *parts, class_="empty")


def words(*parts: str) -> Html:
    """A sentence of texts and names."""
    return joined(parts)


def namesakes(callers: Iterable[Caller]) -> frozenset[str]:
    """Ids that several callers have: the key "alice" and a token of "alice" are not the same."""
    times = Counter(caller[2] for caller in {*callers} if caller is not None)
    return frozenset(identity for identity, number in times.items() if number > 1)


def caller_name(caller: Caller, namesakes: Container[str] = ()) -> tuple[str, Html | None]:
    """A caller, in a text and in HTML. None: it has no name, and is called by ours.

    Args:
        caller: Who.
        namesakes: Ids that several callers have: with these it is said who vouches for them.
    """
    if caller is None:
        return NOBODY, None
    method, issuer, identity = caller
    if identity not in namesakes or not method:  # or nobody has told how it was proved
        return identity, name_of(identity)
    told = f"{identity} ({method} of {issuer})" if issuer else f"{identity} ({method})"
    return told, joined([name_of(identity), " (", proof(caller), ")"])


def caller_html(caller: Caller, namesakes: Container[str] = ()) -> Html:
    """A caller in a sentence."""
    told, html = caller_name(caller, namesakes)
    return html if html is not None else joined([told])


def proof(caller: Caller) -> str | None:
    """How a caller has proved who it is."""
    if caller is None:
        return None
    return joined([shown(caller[0], 40), *([" of ", name_of(caller[1], 40)] if caller[1] else [])])


def bounded(sketch: Heaviest[Key], what: str, unit: str) -> Html | None:
    """What to know about numbers of which not all could be kept."""
    if not sketch.missed:
        return None
    return note(
        f"There were too many {what} to keep them all in memory. The heaviest are kept, whatever has more than "
        f"{things(sketch.missed, unit)} ({of_all(sketch.missed, sketch.total)} of all) among them; the numbers of each "
        "may be short by as many."
    )


def peak(totals: Totals, values: Sequence[int]) -> tuple[int, str]:
    """The largest value, and when it was."""
    index = max(range(len(values)), key=values.__getitem__)
    return values[index], stretch(totals.numbers[index] * totals.width, totals.width)


def quarters(numbers: range) -> tuple[range, range]:
    """The first and the last quarter of the time."""
    quarter = max(len(numbers) // 4, 1)
    return numbers[:quarter], numbers[-quarter:]


def _or_dash(value: float | None, spell: Callable[[float], str]) -> str:
    return DASH if value is None else spell(value)


def spell_whole(value: float) -> str:
    """A number of things in a table."""
    return whole(round(value))
