"""What was answered: how fast, how sure, with which labels and by which models."""

import math
from collections.abc import Sequence

from mlguard.monitoring._report_html import Html, joined, name_of
from mlguard.monitoring._report_numbers import (
    DASH,
    THIN,
    log_ticks,
    milliseconds,
    of_all,
    percent,
    round_ticks,
    short,
    things,
    whole,
)
from mlguard.monitoring._report_parts import (
    Finding,
    Section,
    bounded,
    cell,
    empty,
    figure,
    head,
    marks_of,
    moment_cell,
    number,
    numbers_behind,
    quarters,
    spell_whole,
    table,
    times_of,
    top_series,
    words,
)  # fmt: skip
from mlguard.monitoring._report_plots import Axis, Series, Times, bars, legend, lines, shades
from mlguard.monitoring._report_totals import TENTHS, Totals

_SHARES = ((f"50{THIN}% within", 0.5), (f"95{THIN}% within", 0.95), (f"99{THIN}% within", 0.99))
_SLOWER = 1.5  # times: a change of latency that is told
_LESS_SURE = 0.05  # a change of mean confidence that is told
_OTHER_LABELS = 0.05  # a change of a label's share that is told
_FEW_POINTS = 0.01  # the same, of one that became twice or half as frequent
_WINDOWS = 28
_ENOUGH = 100  # answers in a window
_SOME, _LARGE = 0.1, 0.25  # PSI as it is usually read, since Lewis (1994)


def latency(totals: Totals) -> Section:
    """How fast."""
    topic, all_of_it = "Latency", totals.whole()
    if not all_of_it.latency:
        return Section("latency", topic, "No latency was recorded", empty("The log has no latency of a request."))
    times = times_of(totals)
    series = [
        Series(name, [_latency_at(totals, number, share) for number in times.numbers], colour, is_ours=True)
        for (name, share), colour in zip(_SHARES, (0, 1, 3), strict=True)
    ]
    known = [value for one in series for value in one.values if value]
    half, most = all_of_it.latency_at(0.5), all_of_it.latency_at(0.95)
    heading = f"Half of all requests took {milliseconds(half)} or less, 95{THIN}% took {milliseconds(most)} or less"
    axis = Axis(log_ticks(max(min(known), 1e-3), max(known)), milliseconds, math.log10)
    caption = "Latency of requests: of a hundred, 50, 95 and 99 were answered within this time (logarithmic)"
    plot = lines(times, axis, series, f"{caption}. {heading}.")
    body = figure(f"{caption}.", plot, legend(series, "dash"), numbers_behind(times, series, milliseconds, caption))
    before, after = (totals.whole(quarter).latency_at(0.5) for quarter in quarters(totals.numbers))
    findings = []
    if before and after and len(totals.numbers) > 1 and not 1 / _SLOWER < after / before < _SLOWER:
        is_slower = after > before
        change = f"{milliseconds(before)} to {milliseconds(after)}"
        findings.append(Finding(f"The median latency {'rose' if is_slower else 'fell'} from {change}",
                                "bad" if is_slower else ""))  # fmt: skip
    failed = all_of_it.failed
    if failed:
        findings.append(
            Finding(f"{things(failed, 'request')} ({of_all(failed, all_of_it.requests)}) failed with a 5xx", "bad")
        )
    return Section("latency", topic, heading, body, tuple(findings))


def _latency_at(totals: Totals, number: int, share: float) -> float | None:
    slot = totals.slots.get(number)
    return None if slot is None else slot.latency_at(share)


def confidence(totals: Totals) -> Section:
    """How sure, and whether that changes."""
    topic, all_of_it = "Confidence", totals.whole()
    mean = all_of_it.mean_confidence
    if mean is None:
        body = empty("The log has no confidence of answers: it is recorded where an endpoint truncates its output.")
        return Section("confidence", topic, "No confidence was recorded", body)
    times = times_of(totals)
    tenths = [
        Series(f"{tenth / TENTHS:.1f} to {(tenth + 1) / TENTHS:.1f}", _tenth(totals, tenth), 0, is_ours=True)
        for tenth in range(TENTHS)
    ]
    means = [totals.slots[n].mean_confidence if n in totals.slots else None for n in times.numbers]
    line = Series("mean", means, 0, is_ours=True)
    before, after = (totals.whole(quarter).mean_confidence for quarter in quarters(totals.numbers))
    heading, findings = f"The mean confidence is {mean:.2f}", []
    if before is not None and after is not None and len(totals.numbers) > 1:
        if abs(after - before) >= _LESS_SURE:
            heading = f"The mean confidence {'rose' if after > before else 'fell'} from {before:.2f} to {after:.2f}"
            findings.append(Finding(heading, "bad" if after < before else ""))
        else:
            heading = f"The mean confidence is {mean:.2f}, at the end as at the beginning"
    axis = Axis((0.0, 0.25, 0.5, 0.75, 1.0), lambda value: f"{value:g}" if value <= 1 else whole(round(value)))
    caption = "How sure answers were: the stronger the colour, the more of them; the line is the mean"
    plot = shades(times, tenths, axis, line, f"{caption}. {heading}.")
    drift, drifted = _drift(totals)
    body = joined([
        figure(f"{caption}.", plot, numbers_behind(times, tenths, spell_whole, caption)),
        drift,
    ])  # fmt: skip
    return Section("confidence", topic, heading, body, (*findings, *drifted))


def _tenth(totals: Totals, tenth: int) -> list[int]:
    return [totals.slots[n].confidence[tenth] if n in totals.slots else 0 for n in totals.numbers]


def _drift(totals: Totals) -> tuple[Html | None, list[Finding]]:
    """How far the confidence is from what it was at first."""
    size = -(-len(totals.numbers) // _WINDOWS)
    parts = range(totals.numbers[0] // size, totals.numbers[-1] // size + 1)
    windows = Times(parts, totals.width * size, marks_of(totals))
    found = [totals.whole(range(n * size, (n + 1) * size)).confidence for n in windows.numbers]
    first = max(len(found) // 4, 1)
    reference = [sum(window[tenth] for window in found[:first]) for tenth in range(TENTHS)]
    if sum(reference) < _ENOUGH or len(found) < 2:
        return None, []
    values = [stability(reference, window) if sum(window) >= _ENOUGH else None for window in found]
    most = max((value for value in values[first:] if value is not None), default=0.0)
    ticks = tuple(tick for tick in (0.0, _SOME, _LARGE, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0) if tick / 2 < max(most, _SOME))
    caption = "Drift of confidence: population stability index against the first quarter of the time"
    explained = f"{caption}. Below {_SOME} is usually read as no change, above {_LARGE} as a large one."
    series = [Series("stability index", values, 0, is_ours=True)]
    axis = Axis(ticks, lambda value: f"{value:.2g}", math.sqrt)  # or the thresholds would lie upon each other
    plot = lines(windows, axis, series, f"{explained} The largest is {most:.2f}.")
    drawn = figure(explained, plot, numbers_behind(windows, series, lambda value: f"{value:.3f}", caption))
    is_large = most > _LARGE
    finding = Finding(
        f"The confidence of answers drifted: its stability index reached {most:.2f}, and {_LARGE} is much", "bad"
    )
    return drawn, [finding] if is_large else []


def stability(reference: Sequence[int], window: Sequence[int]) -> float:
    """The population stability index of two histograms. With half a count more in each bin, or it may be infinite."""
    one, two = (sum(histogram) + 0.5 * len(histogram) for histogram in (reference, window))
    shares = [((a + 0.5) / one, (b + 0.5) / two) for a, b in zip(reference, window, strict=True)]
    return sum((b - a) * math.log(b / a) for a, b in shares)


def labels(totals: Totals) -> Section:
    """Which labels."""
    topic, ranked = "Label balance", totals.labels.ranked()
    if not ranked:
        body = empty("The log has no labels of answers: they are recorded where an endpoint truncates its output.")
        return Section("labels", topic, "No labels were recorded", body)
    times = times_of(totals)
    sums = [sum(entry.series.get(n, 0) for _, entry in ranked) for n in times.numbers]
    counts = top_series(totals.labels, times.numbers, sums, lambda label: (label, name_of(label)))
    shares = [
        Series(
            one.name,
            [_share(value, sums[i]) for i, value in enumerate(one.values)],
            one.colour,
            one.is_ours,
            one.legend,
        )
        for one in counts
    ]
    first, entry = ranked[0]
    heading = words(name_of(first), f" is the most frequent answer, {of_all(entry.weight, totals.labels.total)} of all")
    caption = "Share of each label in the answers"
    plot = bars(times, Axis((0.0, 0.25, 0.5, 0.75, 1.0), percent), shares, f"{caption}, over time.")
    body = joined([
        figure(f"{caption}.", plot, legend(shares), numbers_behind(times, counts, spell_whole, "Labels")),
        bounded(totals.labels, "labels", "answer"),
    ])  # fmt: skip
    return Section("labels", topic, heading, body, _changed_balance(totals))


def _changed_balance(totals: Totals) -> tuple[Finding, ...]:
    """The label whose share has changed most, if that is much: by points, or for a rare one by a factor."""
    entries = totals.labels.ranked()
    counts = [[sum(entry.series.get(n, 0) for n in part) for _, entry in entries] for part in quarters(totals.numbers)]
    if len(totals.numbers) < 2 or min(map(sum, counts)) < _ENOUGH:
        return ()
    before, after = ([count / sum(part) for count in part] for part in counts)
    much = [
        (abs(new - old), place)
        for place, (old, new) in enumerate(zip(before, after, strict=True))
        if abs(new - old) >= _OTHER_LABELS or (abs(new - old) >= _FEW_POINTS and max(old, new) >= 2 * min(old, new))
    ]
    if not much:
        return ()
    _, place = max(much)
    changed = f" in the answers {'rose' if after[place] > before[place] else 'fell'}"
    shares = f" from {percent(before[place])} to {percent(after[place])}"
    return (Finding(words("The share of ", name_of(entries[place][0]), changed, shares), "bad"),)


def _share(value: float | None, total: float) -> float | None:
    return value / total if value and total else None


def models(totals: Totals) -> Section:
    """Which models."""
    topic, ranked = "Models served", totals.models.ranked()
    if not ranked:
        body = empty("No answer of the log names its model.")
        return Section("models", topic, "No model is named", body)
    times = times_of(totals)
    sums = [sum(entry.series.get(n, 0) for _, entry in ranked) for n in times.numbers]
    series = top_series(totals.models, times.numbers, sums, lambda key: (f"{key[0]} {key[1]}".strip(), _model(key)))
    heading = words("One model answered: ", _model(ranked[0][0]))
    if len(ranked) > 1:
        heading = words(f"{whole(len(ranked))} models answered, ", _model(ranked[0][0]), " the most")
    rows = [
        [head(name_of(key[0])), cell(name_of(key[1])), cell(name_of(key[2], 24) if key[2] else DASH),
         number(whole(entry.requests)), number(whole(entry.weight)), moment_cell(entry.first), moment_cell(entry.last)]
        for key, entry in ranked
    ]  # fmt: skip
    heads = ["Model", "Version", "Digest", "#Requests", "#Rows", "First (UTC)", "Last (UTC)"]
    caption = "Rows that were answered, by model"
    plot = bars(times, Axis(round_ticks(max(sums)), short), series, f"{caption}, over time.")
    body = joined([
        figure(f"{caption}.", plot, legend(series), numbers_behind(times, series, spell_whole, caption)),
        table(heads, rows, "Models"),
        bounded(totals.models, "models", "row"),
    ])  # fmt: skip
    return Section("models", topic, heading, body)


def _model(key: tuple[str, str, str]) -> Html:
    return joined([name_of(key[0]), " ", name_of(key[1]) if key[1] else None])
