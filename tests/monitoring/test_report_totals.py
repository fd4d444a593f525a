"""What is counted of records, over time, in bounded memory."""

import itertools
import tracemalloc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlguard.monitoring._report_totals import MOST_SLOTS, WIDTHS, Totals, group_of
from tests.monitoring.audit_pages import event, request

_START = 1_795_651_200.0  # 2026-11-26 00:00
_DAY = 86_400.0


def _counted(*records: tuple[float, dict[str, Any]]) -> Totals:
    totals = Totals()
    for at, record in records:
        totals.take(at, record["event"], record)
    totals.settle()
    return totals


def test_widths_are_multiples() -> None:
    """So that slots of time can be put together, and nothing is split."""
    assert all(longer % shorter == 0 for shorter, longer in itertools.pairwise(WIDTHS))


def test_a_request_is_counted() -> None:
    """Rows of what was answered, under the caller, the route, the labels and the model; with its latency."""
    totals = _counted((_START, request(rows=5, latency_ms=4.0)))
    slot = totals.whole()
    assert (slot.requests, slot.refused, slot.failed, slot.rows) == (1, 0, 0, 5)
    assert totals.by_rows.entries[("api-key", "", "alice")].rows == 5
    assert totals.routes.entries[("POST", "/predict")].requests == 1
    assert totals.labels.entries["setosa"].weight == 1
    assert totals.models.entries[("iris", "3", "sha256:00")].weight == 5
    assert slot.confidence[9] == 1
    latency = slot.latency_at(0.5)
    assert latency is not None
    assert 4 / 1.1 < latency < 4 * 1.1


def test_a_refusal_answers_no_rows() -> None:
    """What a guard refused, and what the app answered with 4xx, gave no rows away; a 5xx has failed and gave none."""
    totals = _counted(
        (_START, request(status=429, refused_by="RateLimit", rule="rate-limited", rows=5)),
        (_START, request(status=404, rows=5)),
        (_START, request(status=503, refused_by="AuditLog", rows=5)),
        (_START, request(status=500, rows=5)),
    )
    slot = totals.whole()
    assert (slot.requests, slot.refused, slot.failed, slot.rows) == (4, 3, 1, 0)
    assert totals.refusals.entries.keys() == {("RateLimit", "rate-limited", 429), ("", "", 404), ("AuditLog", "", 503)}
    assert totals.addresses.entries["192.0.2.1"].refused == 3
    assert not totals.by_rows.entries


def test_callers_of_one_name_are_two() -> None:
    """The key alice and a token's alice share nothing; where nobody was authenticated, there is no caller."""
    totals = _counted(
        (_START, request()),
        (_START, request(principal={"method": "jwt", "issuer": "https://idp", "id": "alice"})),
        (_START, request(principal="alice")),
        (_START, request(principal=None)),
        (_START, request(principal=7)),
    )
    assert len(totals.by_requests.entries) == 4
    assert totals.by_requests.entries[None].requests == 2
    assert totals.callers.count == 3


def test_a_sealed_caller_is_one() -> None:
    """What is sealed is another text each time; callers are told apart by the ids of their keys."""
    sealed = [{"method": "api-key", "issuer": "", "id": f"s1.k{n // 2}.{'x' * n}y"} for n in range(4)]
    totals = _counted(*[(_START, request(principal=one)) for one in sealed])
    assert {caller[2] for caller in totals.by_requests.entries if caller} == {"s1.k0", "s1.k1"}


@given(st.lists(st.floats(0, 40 * _DAY), min_size=1, max_size=60))
def test_nothing_is_lost_when_slots_grow(times: list[float]) -> None:
    """However long the log is, its pictures have few slots, and all records are in them or told as far away."""
    totals = _counted(*[(_START + at, request()) for at in times])
    assert len(totals.numbers) <= MOST_SLOTS
    drawn = totals.whole().requests
    assert drawn + totals.far == len(times)
    for sketch in (totals.by_rows, totals.by_requests, totals.routes, totals.labels, totals.models):
        (entry,) = sketch.entries.values()
        assert sum(entry.series.get(number, 0) for number in totals.numbers) == drawn


def test_a_wrong_clock_does_not_stretch_the_pictures() -> None:
    """A record of years ago, or some days ahead, is told, and the rest is shown as before."""
    minutes = [(_START + 60.0 * minute, request()) for minute in range(300)]
    totals = _counted((_START - 3_000 * _DAY, request()), *minutes, (_START + 400 * _DAY, request()))
    assert totals.far == 2
    assert totals.whole().requests == 300


def test_one_record_is_shown() -> None:
    """A log of one record has one slot of a second."""
    totals = _counted((_START, request()))
    assert (len(totals.numbers), totals.width) == (1, 1)


def test_an_empty_log() -> None:
    """It has no slots, and nothing in them."""
    totals = _counted()
    assert len(totals.numbers) == 0
    assert totals.whole().requests == 0
    assert totals.whole().latency_at(0.5) is None
    assert totals.whole().mean_confidence is None


def test_events_are_told() -> None:
    """The latest of each group with their facts, bounded."""
    totals = _counted(
        *[
            (_START + n, event("model.loaded", model=f"m{n}", nested={"a": 1}, none=None, ratio=1 / 3))
            for n in range(60)
        ],
        (_START - 1, event("model.loaded", model="before all of them, read last")),
        (_START, event("drift.found", **{f"fact{n}": "x" * 1_000 for n in range(50)})),
        (_START, event("never.heard.of")),
    )
    told = totals.told("models")
    assert len(told) == 40
    assert told[-1] == (_START + 59, "model.loaded", "model=m59, ratio=0.333333")
    assert len(totals.told("drift")[0][2]) < 2_000
    assert (group_of("never.heard.of"), group_of("nodot"), group_of("login.refused")) == ("others", "others", "logins")


def test_a_fact_is_one_fact() -> None:
    """A value that holds what looks like another fact stands in quotes."""
    totals = _counted((_START, event("key.revoked", key='x", by=operator', n=1, why="a, b")))
    assert totals.told("keys and tokens")[0][2] == 'key="x"", by=operator", n=1, why="a, b"'


def test_suspects_are_named_by_their_facts() -> None:
    """By principal, or by what else says who; what is sealed by its key."""
    totals = _counted(
        (_START, event("query.suspected", principal="mallory", score=3.5)),
        (_START, event("query.suspected", principal="mallory", method="jwt", issuer="https://id.test")),
        (_START, event("query.suspected", principal={"id": "mallory"})),
        (_START, event("query.suspected", key="k1", principal="")),
        (_START, event("query.suspected", principal="s1.abc.def")),
        (_START, event("query.suspected")),
        (_START, event("query.cleared", principal="mallory")),
    )
    assert {who: entry.weight for who, entry in totals.suspects.entries.items()} == {
        ("", "", "mallory"): 2, ("jwt", "https://id.test", "mallory"): 1, ("", "", "k1"): 1, ("", "", "s1.abc"): 1,
        ("", "", ""): 1,
    }  # fmt: skip


def test_odd_values_are_no_reason_to_stop() -> None:
    """Members of other kinds than they should be count as absent; a latency of 0 and of years has a place."""
    totals = _counted(
        (_START, request(output={"labels": {"a": True, "b": -1, "c": 2}, "confidence": {"0.3": 2, "7": 5}})),
        (_START, request(output=[], model=[], status="200", rows="5", latency_ms="1", route=None, method=None)),
        (_START, request(latency_ms=0)),
        (_START, request(latency_ms=1e300)),
        (_START, request(model={"name": None, "version": None}, chain=7)),
    )
    assert {label: entry.weight for label, entry in totals.labels.entries.items()} == {"c": 2, "setosa": 3}
    assert totals.whole().confidence[3] == 2
    assert min(totals.whole().latency) == -40
    assert max(totals.whole().latency) == 80
    assert ("", "", "") in totals.models.entries


def test_memory_does_not_grow_with_callers() -> None:
    """Once as many callers came by as are kept, thousands more with names of a thousand letters take no more of it."""
    totals, used = Totals(), []
    tracemalloc.start()
    for part in range(3):
        for number in range(part * 1_500, (part + 1) * 1_500):
            caller = {"method": "jwt", "issuer": "i", "id": f"{number}-" + "x" * 1_000}
            record = request(principal=caller, route=f"/{number}", address=f"a{number}", refused_by=f"g{number}")
            totals.take(_START + number, "request", record)
        used.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert used[-1] < used[0] + 300_000
    assert abs(totals.callers.count - 4_500) < 900
    assert totals.by_requests.missed > 0
