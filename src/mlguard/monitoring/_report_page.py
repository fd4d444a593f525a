"""The page of a report, put together."""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from mlguard.monitoring import _report_answers as answers
from mlguard.monitoring import _report_callers as callers
from mlguard.monitoring import _report_events as events
from mlguard.monitoring._report_html import Html, element, joined, shown
from mlguard.monitoring._report_numbers import THIN, milliseconds, minute, of_all, short, things, whole
from mlguard.monitoring._report_parts import Section
from mlguard.monitoring._report_reading import Reading
from mlguard.monitoring._report_totals import Totals
from mlguard.monitoring._report_verified import Verified

_STYLE = Path(__file__).with_name("audit_report.css")


def page(title: str, made: datetime, reading: Reading, totals: Totals, verification: Verified | None) -> str:
    """The page.

    Args:
        title: Stands at the top.
        made: When it is made.
        reading: What was read.
        totals: What was counted.
        verification: Of the log, if there was one.
    """
    all_sections = (
        events.chain(verification), callers.callers(totals), callers.refusals(totals), events.suspects(totals),
        answers.latency(totals), answers.confidence(totals), answers.labels(totals), answers.models(totals),
        events.events(totals), callers.routes(totals), events.reading(reading, totals),
    )  # fmt: skip
    sections = [section for section in all_sections if section is not None]
    body = joined(
        [
            element(
                "header",
                element("p", "Audit report", class_="eyebrow"),
                element("h1", shown(title, 200)),
                element("p", _period(totals, made), class_="soft"),
                _tiles(totals),
                _findings(sections),
                element("nav", *[element("a", one.topic, href=f"#{one.anchor}") for one in sections],
                        aria_label="Sections"),
            ),
            element("main", *[_section(section) for section in sections]),
        ]
    )  # fmt: skip
    return f"<!DOCTYPE html>\n{element('html', _head(title), element('body', body), lang='en')}\n"


def _head(title: str) -> Html:
    style = _STYLE.read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return element(
        "head",
        _meta(charset="utf-8"),
        _meta(http_equiv="Content-Security-Policy", content=policy),
        _meta(name="viewport", content="width=device-width, initial-scale=1"),
        _meta(name="referrer", content="no-referrer"),
        _meta(name="robots", content="noindex"),
        element("title", shown(title, 200)),
        Html(f"<style>{style}</style>"),
    )


def _meta(**attributes: str) -> Html:
    return Html(element("meta", **attributes).removesuffix("></meta>") + "/>")


def _period(totals: Totals, made: datetime) -> str:
    numbers = totals.numbers
    if not numbers:
        return f"No records. Made on {minute(made.timestamp())} UTC."
    start, end = numbers[0] * totals.width, (numbers[-1] + 1) * totals.width
    return f"{minute(start)} to {minute(end)}, all times UTC. Made on {minute(made.timestamp())}."


def _tiles(totals: Totals) -> Html:
    total = totals.whole()
    callers_are = totals.callers.count
    tiles = [
        ("Requests", short(total.requests), f"{whole(total.failed)} failed (5xx)"),
        ("Refused", of_all(total.refused, total.requests), things(total.refused, "request")),
        ("Rows answered", short(total.rows), "rows of the model"),
        ("Principals", short(callers_are), "authenticated" if totals.callers.is_exact else "authenticated, about"),
        ("Latency", milliseconds(total.latency_at(0.5)), f"95{THIN}% in {milliseconds(total.latency_at(0.95))}"),
        ("Suspects", short(len(totals.suspects.entries)), things(totals.suspects.total, "event")),
    ]
    return element(
        "dl",
        *[element("div", element("dt", a), element("dd", b), element("dd", c)) for a, b, c in tiles],
        class_="tiles",
    )


def _findings(sections: Sequence[Section]) -> Html:
    first, *others = sections  # whether the rest can be believed stands first
    rest = [one for section in others for one in section.findings]
    found = [*first.findings, *sorted(rest, key=lambda one: one.kind != "bad")]
    return element("ul", *[element("li", one.text, class_=one.kind or None) for one in found], class_="findings")


def _section(section: Section) -> Html:
    return element(
        "section",
        element("p", section.topic, class_="eyebrow"),
        element("h2", section.heading, id=f"{section.anchor}-heading"),
        section.body,
        id=section.anchor,
        aria_labelledby=f"{section.anchor}-heading",
    )
