"""One page that tells what an audit log holds: ``audit_report``."""

import base64
import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mlguard.errors import ConfigurationError
from mlguard.monitoring import _report_answers as answers
from mlguard.monitoring import _report_callers as callers
from mlguard.monitoring import _report_events as events
from mlguard.monitoring._report_events import Verified
from mlguard.monitoring._report_html import Html, element, joined, shown
from mlguard.monitoring._report_numbers import THIN, milliseconds, minute, of_all, short, whole
from mlguard.monitoring._report_parts import Section
from mlguard.monitoring._report_reading import Reading, chain_of, log_files
from mlguard.monitoring._report_totals import Totals

_STYLE = Path(__file__).with_suffix(".css")


def audit_report(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    verification: Verified | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    title: str = "What happened",
    now: datetime | None = None,
) -> str:
    """Make one HTML page of an audit log: who asks how much, what was refused, latency, confidence, suspects, events.

    The page holds all it needs, asks nobody for anything, and runs no script: its Content-Security-Policy allows one
    style and nothing else. Whatever callers have chosen is shown as text, cut, with control characters written out.

    It shows what the log says. Whether anybody has altered the log, only a verification tells. It names callers and
    addresses: keep it as you keep the log.

    Reads a record at a time, in memory that does not grow with the log: the heaviest callers are kept, and the page
    says by how much their numbers may be short.

    Args:
        paths: Files of JSON lines as ``AuditLog`` writes them, also packed by gzip, and folders of such files
            (``*.jsonl``, ``*.jsonl.gz``).
        verification: What ``verify_audit_log`` has found of the same log. Files of no chain that it knows are not read
            then. None: the page says that the log was not verified.
        since: Records before are left out. One without a zone is of UTC.
        until: Records from then on are left out.
        title: Stands at the top.
        now: When it is made. Records of more than a day later are counted as wrong. None: now.

    Returns:
        The page, to be written as UTF-8.

    Raises:
        ConfigurationError: A path that is not there, a folder without such files, or no path at all.
        OSError: A folder cannot be read. Files that cannot be read are told of on the page.
    """
    made = _utc(now) if now is not None else datetime.now(UTC)
    files = log_files([paths] if isinstance(paths, str | os.PathLike) else paths)
    if not files:
        raise ConfigurationError("audit_report(paths): name at least one audit log")
    reading, totals = Reading(), Totals()
    if verification is not None:
        proved = {chain.chain for chain in verification.chains}
        named = len(files)
        files = [file for file in files if chain_of(file) in proved]
        reading.unproved = named - len(files)
    first = _utc(since).timestamp() if since is not None else -math.inf
    end = _utc(until).timestamp() if until is not None else math.inf
    for at, event, record in reading.records(files, since=first, until=end, now=made.timestamp()):
        totals.take(at, event, record)
    totals.settle()
    return _page(title, made, reading, totals, verification)


def _page(title: str, made: datetime, reading: Reading, totals: Totals, verification: Verified | None) -> str:
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
        ("Refused", of_all(total.refused, total.requests), f"{whole(total.refused)} requests"),
        ("Rows answered", short(total.rows), "rows of the model"),
        ("Principals", short(callers_are), "authenticated" if totals.callers.is_exact else "authenticated, about"),
        ("Latency", milliseconds(total.latency_at(0.5)), f"95{THIN}% in {milliseconds(total.latency_at(0.95))}"),
        ("Suspects", short(len(totals.suspects.entries)), f"{whole(totals.suspects.total)} events"),
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


def _utc(time: datetime) -> datetime:
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
