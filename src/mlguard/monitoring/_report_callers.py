"""Who asks how much, and what is refused."""

import itertools
from functools import partial

from mlguard.monitoring._report_html import Html, element, joined, name_of
from mlguard.monitoring._report_numbers import DASH, of_all, percent, round_ticks, short, things, whole
from mlguard.monitoring._report_parts import (
    IN_A_PLOT,
    Finding,
    Section,
    bounded,
    caller_html,
    caller_name,
    cell,
    empty,
    figure,
    head,
    moment_cell,
    namesakes,
    note,
    number,
    numbers_behind,
    peak,
    proof,
    spell_whole,
    table,
    text,
    times_of,
    top_series,
    words,
)  # fmt: skip
from mlguard.monitoring._report_plots import Axis, bars, legend, share_bar
from mlguard.monitoring._report_totals import Caller, Totals

_IN_A_TABLE = 12
_MOST_ROWS = 0.8  # of all: how few made them
_MAJORITY = 0.5


def callers(totals: Totals) -> Section:
    """Who asks how much."""
    requests = totals.by_requests.total
    if not requests:
        body = empty("The log has no requests. They are recorded by the middleware of the audit log.")
        return Section("callers", "Who asks how much", "No requests", body)
    heading, is_bad = _concentration(totals)
    body = joined(
        [
            _over_time(totals, "rows") if totals.by_rows.total else None,
            _over_time(totals, "requests"),
            _caller_table(totals),
            bounded(totals.by_requests, "principals", "request"),
            bounded(totals.by_rows, "principals", "row"),
        ]
    )
    return Section("callers", "Who asks how much", heading, body, (Finding(heading, "bad" if is_bad else ""),))


def _concentration(totals: Totals) -> tuple[str, bool]:
    """How few made most of it."""
    sketch, what = (totals.by_rows, "rows") if totals.by_rows.total else (totals.by_requests, "requests")
    ranked = sketch.ranked()
    first, entry = ranked[0]
    callers = totals.callers.count + any(caller is None for caller in sketch.entries)
    if callers == 1:
        return words("All ", what, " were made by one principal: ", caller_html(first)), False
    if entry.weight >= _MAJORITY * sketch.total:
        share = of_all(entry.weight, sketch.total)
        return words(caller_html(first, _namesakes(totals)), f" made {share} of all {what}"), first is not None
    made, few = 0, 0
    for few, (_, one) in enumerate(ranked, 1):
        made += one.weight
        if made >= _MOST_ROWS * sketch.total:
            return f"{whole(few)} of {_about(totals)} principals made {of_all(made, sketch.total)} of all {what}", False
    return (
        f"The {whole(few)} heaviest of {_about(totals)} principals made {of_all(made, sketch.total)} of all {what}",
        False,
    )


def _about(totals: Totals) -> str:
    return whole(totals.callers.count) if totals.callers.is_exact else f"about {whole(round(totals.callers.count, -2))}"


def _over_time(totals: Totals, what: str) -> Html:
    sketch = totals.by_rows if what == "rows" else totals.by_requests
    times = times_of(totals)
    sums = [getattr(totals.slots[n], what) if n in totals.slots else 0 for n in times.numbers]
    spell = partial(caller_name, namesakes=_namesakes(totals))
    series = top_series(sketch, times.numbers, sums, spell, _in_the_plots(totals))
    most, when = peak(totals, sums)
    caption = "Rows that were answered, by principal" if what == "rows" else "Requests, refused ones too, by principal"
    label = f"{caption}, over time. The most, {whole(most)}, were on {when} UTC."
    return figure(
        f"{caption}. The most, {whole(most)}, on {when} UTC.",
        bars(times, Axis(round_ticks(most), short), series, label),
        legend(series),
        numbers_behind(times, series, spell_whole, caption),
    )


def _namesakes(totals: Totals) -> frozenset[str]:
    return namesakes(caller for sketch in (totals.by_rows, totals.by_requests) for caller in sketch.entries)


def _in_the_plots(totals: Totals) -> list[Caller]:
    """The heaviest by rows and by requests, in turn: in both pictures, each in its colour."""
    pairs = itertools.zip_longest(totals.by_rows.ranked()[:IN_A_PLOT], totals.by_requests.ranked()[:IN_A_PLOT])
    in_turn = dict.fromkeys(one[0] for pair in pairs for one in pair if one is not None)
    return list(in_turn)[:IN_A_PLOT]


def _caller_table(totals: Totals) -> Html:
    shown = {key: None for key, _ in totals.by_rows.ranked()[:_IN_A_TABLE]}
    shown |= {key: None for key, _ in totals.by_requests.ranked()[:_IN_A_TABLE]}
    rows = []
    for caller in shown:
        asked, answered = totals.by_requests.entries.get(caller), totals.by_rows.entries.get(caller)
        seen = asked or answered
        if seen is None:  # pragma: no cover  # it is from one of the two
            continue
        taken = answered.rows if answered is not None else 0
        rows.append(
            [
                head(caller_html(caller), proof(caller)),
                number(whole(taken)),
                number(of_all(taken, totals.by_rows.total)),
                cell(share_bar(taken / max(totals.by_rows.total, 1), 0), "bar-cell"),
                number(whole(seen.requests)),
                number(of_all(seen.refused, seen.requests)),
                moment_cell(seen.first),
                moment_cell(seen.last),
            ]
        )
    heads = ["Principal", "#Rows", "#Share", "|", "#Requests", "#Refused", "First (UTC)", "Last (UTC)"]
    return joined([element("h3", "The heaviest principals"), table(heads, rows, "The heaviest principals")])


def refusals(totals: Totals) -> Section:
    """What was refused."""
    topic, requests = "Refusals", totals.by_requests.total
    if not totals.refusals.total:
        body = empty("Nothing was refused." if requests else "There were no requests to refuse.")
        return Section("refusals", topic, "Nothing was refused", body)
    times, share = times_of(totals), totals.refusals.total / requests
    sums = [totals.slots[n].refused if n in totals.slots else 0 for n in times.numbers]
    series = top_series(totals.refusals, times.numbers, sums, _refusal_name)
    (first, entry), (most, when) = totals.refusals.ranked()[0], peak(totals, sums)
    by_far = words(_refusal_html(first), f", {of_all(entry.weight, totals.refusals.total)} of them")
    heading = words(f"{percent(share)} of requests were refused, most often by ", by_far)
    caption = "Refusals by guard and rule"
    label = f"{caption}, over time. The most, {whole(most)}, were on {when} UTC."
    body = joined(
        [
            figure(
                f"{caption}. The most, {whole(most)}, on {when} UTC.",
                bars(times, Axis(round_ticks(most), short), series, label),
                legend(series),
                numbers_behind(times, series, spell_whole, caption),
            ),
            _refusal_table(totals),
            bounded(totals.refusals, "guards and rules", "refusal"),
            _address_table(totals),
            bounded(totals.addresses, "addresses", "refusal"),
        ]
    )
    finding = words(f"{percent(share)} of requests were refused; the most, {whole(most)}, on {when} UTC")
    return Section("refusals", topic, heading, body, (Finding(finding),))


def _refusal_name(key: tuple[str, str, int]) -> tuple[str, Html | None]:
    guard, rule, _ = key
    return " ".join(part for part in (guard, rule) if part) or _by_app(key), _refusal_html(key)


def _refusal_html(key: tuple[str, str, int]) -> Html:
    guard, rule, _ = key
    if not guard and not rule:
        return joined([_by_app(key)])
    return joined([name_of(guard) if guard else "the app", *([" (", name_of(rule), ")"] if rule else [])])


def _by_app(key: tuple[str, str, int]) -> str:
    return f"the app itself, status {key[2]}"


def _refusal_table(totals: Totals) -> Html:
    most = totals.refusals.ranked()[0][1].weight
    rows = [
        [
            head(name_of(key[0]) if key[0] else "the app itself"),
            cell(name_of(key[1]) if key[1] else DASH),
            number(str(key[2]) if key[2] else DASH),
            number(whole(entry.weight)),
            number(of_all(entry.weight, totals.refusals.total)),
            cell(share_bar(entry.weight / most, 3), "bar-cell"),
            moment_cell(entry.first),
            moment_cell(entry.last),
        ]
        for key, entry in totals.refusals.ranked()[:_IN_A_TABLE]
    ]
    heads = ["Guard", "Rule", "#Status", "#Refusals", "#Share", "|", "First (UTC)", "Last (UTC)"]
    return table(heads, rows, "Refusals by guard and rule")


def _address_table(totals: Totals) -> Html:
    rows = [
        [head(name_of(key) if key else "unknown"), number(whole(entry.weight)),
         number(of_all(entry.weight, totals.refusals.total)), moment_cell(entry.first), moment_cell(entry.last)]
        for key, entry in totals.addresses.ranked()[:_IN_A_TABLE]
    ]  # fmt: skip
    heads = ["Address", "#Refusals", "#Share", "First (UTC)", "Last (UTC)"]
    return joined(
        [
            element("h3", "From where refused requests came"),
            table(heads, rows, "Addresses by refused requests"),
            note("An address is where the connection came from, as the service saw it: a proxy, if it does not say."),
        ]
    )


def routes(totals: Totals) -> Section | None:
    """Which routes were asked."""
    ranked = totals.routes.ranked()
    if not ranked:
        return None
    rows = [
        [
            head(words(f"{key[0]} " if key[0] in _METHODS else "", name_of(key[1]) if key[1] else "no such route")),
            number(whole(entry.requests)),
            number(of_all(entry.requests, totals.routes.total)),
            cell(
                share_bar(entry.requests / ranked[0][1].weight, 0, (entry.refused / ranked[0][1].weight,)), "bar-cell"
            ),
            number(of_all(entry.refused, entry.requests)),
            number(whole(entry.rows)),
        ]
        for key, entry in ranked[:_IN_A_TABLE]
    ]
    heading = words(
        name_of(ranked[0][0][1]) if ranked[0][0][1] else "What is no route",
        f" took {of_all(ranked[0][1].weight, totals.routes.total)} of all requests",
    )
    heads = ["Route", "#Requests", "#Share", "|", "#Refused", "#Rows answered"]
    more = len(ranked) - _IN_A_TABLE
    body = joined(
        [
            table(heads, rows, "Routes by requests"),
            text(f"And {things(more, 'other route')}.") if more > 0 else None,
            bounded(totals.routes, "routes", "request"),
        ]
    )
    return Section("routes", "Routes", heading, body)


_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "WEBSOCKET"})
