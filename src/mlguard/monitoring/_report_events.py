"""Who was suspected, what else happened, whether the chain holds, and what could not be read."""

from collections.abc import Container

from mlguard.monitoring._report_html import Html, element, joined, name_of, shown
from mlguard.monitoring._report_numbers import DASH, minute, percent, second, size, things, whole
from mlguard.monitoring._report_parts import (
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
    spell_whole,
    table,
    text,
    times_of,
    words,
)  # fmt: skip
from mlguard.monitoring._report_plots import Series, dots
from mlguard.monitoring._report_reading import Reading
from mlguard.monitoring._report_totals import GROUPS, OTHERS, Totals, group_of
from mlguard.monitoring._report_verified import Verified

_IN_A_TABLE = 12
_IN_A_PLOT = 6
_MOST_CHAINS = 50
_BOUNDED = (
    f"The page is made in bounded memory: of principals, the heaviest {whole(1_024)} by rows and by requests are kept, "
    "of other names fewer. Where more came by, the section says by how much a number may be short. The number of "
    f"principals is exact up to 511, and then an estimate, off by about {percent(0.04)}."
)
_URGENT = frozenset({"drift", "lockdown", "alerts", "feedback", "store", "audit log"})
_SUSPICION = GROUPS["query."]
_BAD = {
    "drift.found": "Drift was found {times}",
    "lockdown.set": "A lockdown was set {times}",
    "audit.dropped": "The audit log dropped events, and said so {times}",
    "audit.failed": "The audit log could not be written {times}",
    "store.down": "The store was down {times}",
    "model.refused": "A model file was refused {times}",
    "feedback.quarantined": "Feedback was put into quarantine {times}",
}


def suspects(totals: Totals) -> Section:
    """Who was suspected."""
    topic, ranked = "Suspects", totals.suspects.ranked()
    if not ranked:
        body = empty(
            "The log has no query.suspected event. That says something only where a QueryMonitor is installed."
        )
        return Section("suspects", topic, "Nobody was suspected", body)
    times = times_of(totals)
    several = namesakes(who for who, _ in ranked)
    series = [
        Series(
            caller_name(who, several)[0] if who[2] else _UNNAMED,
            [entry.series.get(n, 0) for n in times.numbers],
            3,
            is_ours=not who[2],
        )
        for who, entry in ranked[:_IN_A_PLOT]
    ]
    rows = [
        [head(_named(who, several)), number(whole(entry.weight)), moment_cell(entry.first), moment_cell(entry.last),
         cell(entry.note or DASH, "facts")]
        for who, entry in ranked[:_IN_A_TABLE]
    ]  # fmt: skip
    heading = words(_named(ranked[0][0], several), f" was suspected {_times(ranked[0][1].weight)}")
    if len(ranked) > 1:
        many = f"{whole(len(ranked))} callers were suspected, "
        heading = words(many, _named(ranked[0][0], several), f" the most, {_times(ranked[0][1].weight)}")
    caption = "When callers were suspected"
    body = joined(
        [
            figure(
                f"{caption}: larger where it happened more often.",
                dots(times, series, f"{caption}."),
                numbers_behind(times, series, spell_whole, caption),
            ),
            table(["Caller", "#Suspected", "First (UTC)", "Last (UTC)", "What was said last"], rows, "Suspects"),
            bounded(totals.suspects, "suspects", "event"),
            note("A suspicion is no proof: it says that queries look like those of an attack."),
        ]
    )
    return Section("suspects", topic, heading, body, (Finding(heading, "bad"),))


_UNNAMED = "not named"


def _named(who: tuple[str, str, str], several: Container[str]) -> Html:
    return caller_html(who, several) if who[2] else joined([_UNNAMED])


def _times(number_of_times: int) -> str:
    return "once" if number_of_times == 1 else "twice" if number_of_times == 2 else f"{whole(number_of_times)} times"


def events(totals: Totals) -> Section:
    """What else happened."""
    topic, ranked = "Events", totals.events.ranked()
    if not ranked:
        return Section("events", topic, "No other events", empty("The log has nothing but requests."))
    times = times_of(totals)
    groups = [group for group in [*dict.fromkeys(GROUPS.values()), OTHERS] if totals.told(group)]
    series = []
    for group in groups:
        sums = [0] * len(times.numbers)
        for event, entry in ranked:
            if group_of(event) == group:
                sums = [sums[i] + entry.series.get(n, 0) for i, n in enumerate(times.numbers)]
        series.append(Series(group, sums, 3 if group in _URGENT or group == _SUSPICION else 0, is_ours=True))
    heading = words(f"{things(totals.events.total, 'event')} beside the requests, most often ", name_of(ranked[0][0]))
    caption = "When events happened"
    body = joined(
        [
            figure(
                f"{caption}, by what they are about: larger where there were more.",
                dots(times, series, f"{caption}, by what they are about."),
                numbers_behind(times, series, spell_whole, caption),
            ),
            *[_group(totals, group) for group in groups],
            bounded(totals.events, "kinds of events", "event"),
        ]
    )
    found = [
        Finding(f"{text.format(times=_times(happened.weight))}, last on {minute(happened.last)} UTC", "bad")
        for event, text in _BAD.items()
        if (happened := totals.events.entries.get(event)) is not None
    ]
    return Section("events", topic, heading, body, tuple(found))


def _group(totals: Totals, group: str) -> Html:
    told = totals.told(group)
    total = sum(entry.weight for event, entry in totals.events.ranked() if group_of(event) == group)
    latest = f", the latest {whole(len(told))} of them" if total > len(told) else ""
    summary = element("summary", f"{group.capitalize()}: {things(total, 'event')}{latest}")
    rows = [[cell(second(at), "time"), cell(name_of(event)), cell(facts or DASH, "facts")] for at, event, facts in told]
    inner = table(["Time (UTC)", "Event", "Facts"], rows, f"Events: {group}")
    return element("details", summary, inner, open="open" if group in _URGENT else None)


def chain(verified: Verified | None) -> Section:
    """Whether the log is as it was written."""
    topic = "Integrity"
    if verified is None:
        heading = "The log was not verified"
        body = joined(
            [
                text("Whoever can write to the files can have changed what this page tells."),
                note("Give the folder of the log and its key (MLGUARD_AUDIT_KEY or --key-file) to have it verified."),
            ]
        )
        return Section("integrity", topic, heading, body, (Finding(f"{heading}: what it says is not proved"),))
    records = sum(one.records for one in verified.chains)
    if verified.is_intact:
        heading = f"The chain holds: {things(records, 'record')} as they were written"
    else:
        wrong = len(verified.problems) + sum(len(one.problems) + one.more_problems for one in verified.chains)
        heading = f"The log was tampered with, or is damaged: {things(wrong, 'problem')}"
    problems = [element("li", shown(problem, 300)) for problem in verified.problems[:_MOST_CHAINS]]
    chains = sorted(verified.chains, key=lambda one: (not one.problems, one.since))
    rows = [
        [head(name_of(one.chain)), number(whole(one.files)), number(whole(one.records)), cell(shown(one.since)),
         cell(shown(one.until)), cell(one.ending), number(DASH if one.head is None else whole(one.head)),
         cell(joined([element("div", shown(said, 300)) for said in one.problems]) or "none", "facts")]
        for one in chains[:_MOST_CHAINS]
    ]  # fmt: skip
    heads = ["Chain", "#Files", "#Records", "From", "To", "Ending", "#Proved up to", "Problems"]
    more = len(chains) - len(rows)
    body = joined(
        [
            text("Each record is chained to the one before with a key: an edit, a move or a gap breaks the chain."),
            element("ul", *problems) if problems else None,
            table(heads, rows, "Chains"),
            note(f"And {things(more, 'other chain')}.") if more > 0 else None,
            note(
                "A chain that is not closed is being written, its process was killed, or its end was cut off. What a "
                "signed head proves, it proves also against who has the key."
            ),
        ]
    )
    kind = "good" if verified.is_intact else "bad"
    return Section("integrity", topic, heading, body, (Finding(heading, "good" if kind == "good" else "bad"),))


def reading(found: Reading, totals: Totals) -> Section:
    """What could be read, and how this page counts."""
    wrong = found.broken + found.untimed
    heading = f"All {things(found.lines, 'line')} could be read"
    if wrong or found.unreadable:
        heading = f"{things(wrong, 'line')} of {whole(found.lines)} could not be used"
        if found.unreadable:
            files = len(found.unreadable) + found.more_unreadable
            heading = f"{things(files, 'file')} and {things(wrong, 'line')} of {whole(found.lines)} could not be used"
    read = f"{things(found.files, 'file')}, {things(found.lines, 'line')}, {things(totals.records, 'record')}"
    facts = [f"{read} of {_about(totals)}."]
    if found.broken:
        facts.append(f"{things(found.broken, 'line')} without a record: torn, no JSON, or of another form.")
    if found.untimed:
        facts.append(f"{things(found.untimed, 'record')} without a time, or with one before 2000 or in the future.")
    if found.outside:
        facts.append(f"{things(found.outside, 'record')} before or after the time that was asked for.")
    if found.unproved:
        facts.append(f"{things(found.unproved, 'file')} of no chain that was verified: left out.")
    if found.unproved_lines:
        later = things(found.unproved_lines, "line")
        facts.append(f"{later} after the last record that was verified, written since or torn: left out.")
    if totals.far:
        facts.append(f"{things(totals.far, 'record')} so far from all others in time that no picture shows them.")
    items = [element("li", fact) for fact in facts]
    if found.unreadable:
        names = joined([part for file in found.unreadable for part in (" ", name_of(file))])
        more = f" and {whole(found.more_unreadable)} more" if found.more_unreadable else None
        items.append(element("li", "Not read, or not to the end:", names, more))
    method = [
        f"All times are UTC. A bar or a point stands for {size(totals.width)}.",
        "Refused is what a guard refused, or what the app answered with a 4xx. Rows are those of answered requests.",
        "Latencies are counted in steps of a quarter of a doubling, and right to a tenth. Confidence is in tenths.",
        _BOUNDED,
        "Names are cut after 80 characters; what is not to be seen in them is written out.",
    ]
    body = joined([element("ul", *items), *[note(one) for one in method]])
    findings = (Finding(heading, "bad"),) if wrong or found.unreadable else ()
    return Section("reading", "About this page", heading, body, findings)


def _about(totals: Totals) -> str:
    if not totals.chains.count:
        return "files without chains"
    return f"{'' if totals.chains.is_exact else 'about '}{things(totals.chains.count, 'chain')}"
