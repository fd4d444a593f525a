"""``audit_report``: a page whose sentences are right, and in which nothing that a caller has written does anything."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlguard import ConfigurationError, audit_report
from tests.monitoring.audit_pages import NOW, Parsed, event, findings, heading, log_of, request, section, spoken, tree
from tests.monitoring.audit_week import week, write

_HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>',
    "</title></svg><style>*{display:none}</style>",
    "' onmouseover='alert(1)", "javascript:alert(1)", "&lt;b&gt;", "]]>", "--><b>", "\x1b[31mred", "\u202egnp.exe",
    "a\nb\rc\td", "\x00", "{{7*7}}", "x" * 20_000, "e" + "\u0301" * 50, "\ufeff\u200b\u2066", "\u2028\u2029", "#|",
    "s1.a.b",
)  # fmt: skip
_START = datetime(2026, 11, 26, tzinfo=UTC)
_ALLOWED_ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "href", "id", "aria-label", "aria-labelledby",
    "aria-hidden", "role", "tabindex", "scope", "open", "width", "height", "viewbox", "preserveaspectratio", "x", "y",
    "x1", "x2", "y1", "y2", "cx", "cy", "r", "rx", "d", "dx", "text-anchor",
}  # fmt: skip


@dataclass
class Chain:
    """What a verification has found of a chain."""

    chain: str = "0123456789abcdef"
    files: int = 1
    records: int = 5
    since: str = "2026-11-26T00:00:00.000000Z"
    until: str = "2026-11-26T01:00:00.000000Z"
    ending: str = "open"
    head: int | None = None
    problems: list[str] = field(default_factory=list)
    more_problems: int = 0


@dataclass
class Verification:
    """What a verification has found."""

    is_intact: bool = True
    problems: list[str] = field(default_factory=list)
    chains: list[Chain] = field(default_factory=lambda: [Chain()])


def _page(path: Path, *records: Any, **options: Any) -> str:
    return audit_report(log_of(path / "log.jsonl", records), now=NOW, **options)


def _at(minutes: float) -> str:
    return f"{_START + timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%S}.000000Z"


@pytest.fixture(scope="module")
def of_a_week(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a week with an attack in it."""
    folder = tmp_path_factory.mktemp("week")
    write(folder, week(density=0.1))
    return audit_report(folder, now=NOW)


# What it says --------------------------------------------------------------------------------------------------------


def test_the_findings_of_a_week(of_a_week: str) -> None:
    """The attack, the drift and the lockdown stand at the top in words, and that nothing was verified first of all."""
    first, *rest = findings(of_a_week)
    assert first == "The log was not verified: what it says is not proved"
    told = "\n".join(rest)
    assert "2 callers were suspected, trial-4711 the most, 4 times" in told
    assert re.search(r"The mean confidence fell from 0\.8\d to 0\.6\d", told)
    assert "The share of fraud in the answers rose from" in told
    assert "Drift was found twice, last on Tue 24 Nov 2026, 21:00 UTC" in told
    assert "A lockdown was set once, last on Tue 24 Nov 2026, 07:30 UTC" in told
    assert "The store was down once" in told
    assert "trial-4711 made 52 % of all rows" in told
    assert "% of requests were refused; the most" in told
    assert "on Tue 24 Nov" in told


def test_the_sections_of_a_week(of_a_week: str) -> None:
    """Each heading says what was found."""
    assert "most often by RateLimit (rate-limited)" in heading(of_a_week, "refusals")
    assert heading(of_a_week, "models") == "2 models answered, fraud 12 the most"
    assert re.fullmatch(r"genuine is the most frequent answer, 8\d % of all", heading(of_a_week, "labels"))
    assert "192.0.2.66" in section(of_a_week, "refusals")
    assert "principal=trial-4711" in section(of_a_week, "suspects")
    assert "lockdown.set" in section(of_a_week, "events")
    assert heading(of_a_week, "routes") == "/predict took 99 % of all requests"
    assert "2 files" in section(of_a_week, "reading")
    assert "2 chains" in section(of_a_week, "reading")


def test_every_picture_is_also_a_table_and_has_a_description(of_a_week: str) -> None:
    """Who does not see pictures reads what they show; tables that are wide can be reached by the keyboard."""
    figures = tree(of_a_week).findall(".//figure")
    assert len(figures) == 10
    for figure in figures:
        picture = figure.find("./div[@role='img']")
        assert picture is not None
        assert len(picture.get("aria-label", "")) > 20
        assert figure.find("./details//table/tbody/tr") is not None
    for table in tree(of_a_week).findall(".//div[@class='scroll']"):
        assert (table.get("tabindex"), table.get("role")) == ("0", "region")
        assert table.get("aria-label")


def test_plots_show_what_explains_them(of_a_week: str) -> None:
    """Where the suspicion, the lockdown and the drift were is marked in every plot over time."""
    plots = [plot for plot in tree(of_a_week).findall(".//svg[@class='plot']") if plot.find("./svg") is not None]
    assert len(plots) == 8
    for plot in plots:
        assert [mark.text for mark in plot.findall("./text[@class='mark-name']")] == ["suspicion", "lockdown", "drift"]


def test_sections_are_found(of_a_week: str) -> None:
    """Every link of the page leads to a section of it, and no id is given twice."""
    root = tree(of_a_week)
    ids = [one.get("id") for one in root.iter() if one.get("id")]
    assert len(ids) == len(set(ids))
    assert {link.get("href") for link in root.iter("a")} == {f"#{one.get('id')}" for one in root.iter("section")}


def test_the_same_log_makes_the_same_page(tmp_path: Path) -> None:
    """Nothing in it depends on chance."""
    write(tmp_path, week(density=0.02))
    assert audit_report(tmp_path, now=NOW) == audit_report([tmp_path], now=NOW)


def test_an_empty_log(tmp_path: Path) -> None:
    """Every section says that there is nothing, and what would have been there."""
    page = _page(tmp_path)
    assert heading(page, "callers") == "No requests"
    assert heading(page, "suspects") == "Nobody was suspected"
    assert "There were no requests to refuse" in section(page, "refusals")
    assert "No records." in Parsed(page).text
    assert not tree(page).findall(".//figure")
    assert findings(page) == ["The log was not verified: what it says is not proved"]


def test_a_log_of_one_request(tmp_path: Path) -> None:
    """One request is a page, and every picture has something in it."""
    page = _page(tmp_path, request())
    assert heading(page, "callers") == "All rows were made by one principal: alice"
    assert heading(page, "refusals") == "Nothing was refused"
    assert "Nothing was refused." in section(page, "refusals")
    assert heading(page, "models") == "One model answered: iris 3"
    assert heading(page, "confidence") == "The mean confidence is 0.95"
    assert heading(page, "events") == "No other events"


def test_who_made_most(tmp_path: Path) -> None:
    """One with more than half is named; many small ones are counted; without rows, requests count."""
    one = [request(rows=10), request(rows=2, principal={"method": "jwt", "issuer": "https://idp", "id": "bob"})]
    assert heading(_page(tmp_path, *one), "callers") == "alice made 83 % of all rows"
    assert "jwt of https://idp" in section(_page(tmp_path, *one), "callers")
    many = [request(principal={"method": "api-key", "issuer": "", "id": f"c{n}"}) for n in range(10)]
    assert heading(_page(tmp_path, *many), "callers") == "8 of 10 principals made 80 % of all rows"
    refused = [request(status=401, principal=None, refused_by="APIKeyAuth", rule="no-key") for _ in range(3)]
    page = _page(tmp_path, *refused)
    assert heading(page, "callers") == "All requests were made by one principal: not authenticated"
    assert (
        heading(page, "refusals") == "100 % of requests were refused, most often by APIKeyAuth (no-key), 100 % of them"
    )
    page = _page(tmp_path, *refused, request(status=404, route=None, rows=None))
    assert heading(page, "callers") == "not authenticated made 75 % of all requests"
    assert "the app itself, status 404" in section(page, "refusals")
    assert "no such route" in section(page, "routes")


def test_more_callers_than_can_be_kept(tmp_path: Path) -> None:
    """The page says that not all could be kept, and by how much its numbers may be short; the heavy one is named."""
    crowd = [request(principal={"method": "jwt", "issuer": "", "id": f"c{n}"}) for n in range(3_000)]
    mallory = [request(rows=500, principal={"method": "jwt", "issuer": "", "id": "mallory"}) for _ in range(5)]
    page = _page(tmp_path, *crowd, *mallory)
    assert "There were too many principals to keep them all in memory" in section(page, "callers")
    assert "mallory" in section(page, "callers")
    assert re.search(r"of about [23] \d00 principals", heading(page, "callers"))
    assert "authenticated, about" in Parsed(page).text


def test_latency_that_rises_and_requests_that_fail(tmp_path: Path) -> None:
    """Both stand at the top; gaps in time are gaps in the line."""
    quick = [request(_at(minute), latency_ms=2) for minute in range(60)]
    slow = [request(_at(minute), latency_ms=40, status=500) for minute in range(200, 260)]
    told = findings(_page(tmp_path, *quick, *slow))
    assert any(re.fullmatch(r"The median latency rose from 2\S* ms to \d\d ms", one) for one in told)
    assert "60 requests (50 %) failed with a 5xx" in told
    told = findings(_page(tmp_path, *[request(_at(300 - minute), latency_ms=1 + minute) for minute in range(300)]))
    assert any(one.startswith("The median latency fell from") for one in told)
    page = _page(tmp_path, request(latency_ms=None))
    assert heading(page, "latency") == "No latency was recorded"


def test_confidence_that_changes(tmp_path: Path) -> None:
    """A fall is bad, a rise is told, and the stability index says how far the distribution has moved."""
    sure = [request(_at(minute), output={"confidence": {"0.9": 50}}) for minute in range(100)]
    unsure = [request(_at(minute), output={"confidence": {"0.4": 25, "0.3": 25}}) for minute in range(100, 200)]
    page = _page(tmp_path, *sure, *unsure)
    assert heading(page, "confidence") == "The mean confidence fell from 0.95 to 0.40"
    assert any("its stability index reached" in one for one in findings(page))
    turned = [request(_at(200 - minute), output=one["output"]) for minute, one in enumerate([*sure, *unsure])]
    assert "rose from 0.40 to 0.95" in heading(_page(tmp_path, *turned), "confidence")
    page = _page(tmp_path, *sure)
    assert heading(page, "confidence") == "The mean confidence is 0.95, at the end as at the beginning"
    assert not any("stability" in one for one in findings(page))
    page = _page(tmp_path, request(output=None))
    assert heading(page, "confidence") == "No confidence was recorded"
    assert heading(page, "labels") == "No labels were recorded"
    late = [request(_at(0), output=None), *unsure, request(_at(400), output=None)]
    assert heading(_page(tmp_path, *late), "confidence") == "The mean confidence is 0.40"


def test_balance_that_changes(tmp_path: Path) -> None:
    """The label whose share has changed most is named, with both shares; a small change is not told."""
    before = [request(_at(minute), output={"labels": {"a": 18, "b": 2}}) for minute in range(100)]
    after = [request(_at(minute), output={"labels": {"a": 10, "b": 10}}) for minute in range(100, 200)]
    told = findings(_page(tmp_path, *before, *after))
    assert any(re.fullmatch(r"The share of [ab] in the answers (rose|fell) from \d+ % to 50 %", one) for one in told)
    assert not any("share" in one for one in findings(_page(tmp_path, *before)))


def test_many_routes_and_events(tmp_path: Path) -> None:
    """What does not fit into a table is counted; events of each group are told, the latest ones."""
    routes = [request(route=f"/r{n}") for n in range(30)]
    events = [event("model.loaded", _at(n), model="iris") for n in range(50)]
    page = _page(tmp_path, *routes, *events, event("model.refused"), event("audit.dropped"), event("query.suspected"))
    assert "And 18 other routes." in section(page, "routes")
    assert "Models: 51 events, the latest 40 of them" in section(page, "events")
    assert heading(page, "suspects") == "not named was suspected once"
    told = "\n".join(findings(page))
    assert "A model file was refused once, last on" in told
    assert "The audit log dropped events, and said so once, last on" in told


# What was read -------------------------------------------------------------------------------------------------------


def test_what_could_not_be_used_is_told(tmp_path: Path) -> None:
    """Broken lines, wrong times, what was not asked for and files that end in the middle, with their numbers."""
    log_of(tmp_path / "log.jsonl", [request(_at(n)) for n in range(300)])
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"torn\n{"event":"request","time":"never"}\n')
    (tmp_path / "<cut>.jsonl.gz").write_bytes(b"\x1f\x8bno")
    page = audit_report(tmp_path, now=NOW, since=datetime(2026, 11, 26, 0, 10), until=_START + timedelta(hours=4))
    assert heading(page, "reading") == "1 file and 2 lines of 302 could not be used"
    assert heading(page, "reading") in findings(page)
    told = section(page, "reading")
    assert "1 line without a record" in told
    assert "1 record without a time" in told
    assert "70 records before or after" in told
    assert "<cut>.jsonl.gz" in told


def test_records_far_away_are_told(tmp_path: Path) -> None:
    """A record of years ago is in no picture, and the page says so."""
    page = _page(tmp_path, request("2011-01-01T00:00:00Z"), *[request(_at(n)) for n in range(200)])
    assert "1 record so far from all others in time" in section(page, "reading")
    assert not [one for one in tree(page).findall(".//figure") if "2011" in spoken(one)]


def test_names_that_look_alike_are_told_apart(tmp_path: Path) -> None:
    """Who adds a letter without a picture, or a space, to the name of another stands on the page as somebody else."""
    names = ("alice", "alice\u3164", "alice\ufe0f", "alice ", "\\u{3164}", "\u3164")
    suspects = [event("query.suspected", principal=one) for one in names]
    asked = [request(principal={"method": "api-key", "issuer": "", "id": one}) for one in names]
    page = _page(tmp_path, *suspects, *asked)
    rows = [spoken(row) for row in tree(page).findall(".//svg/text[@class='row']")]
    assert {"alice", "alice\\u{3164}", "alice\\u{fe0f}", "alice\\u{20}", "\\u{5c}u{3164}", "\\u{3164}"} <= set(rows)
    for anchor in ("callers", "suspects"):
        named = tree(page).findall(f".//section[@id='{anchor}']//tbody//th//bdi")
        assert len({spoken(one) for one in named}) == len(named) == len(names)


def test_callers_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Where a key and a token have the same id, it is said which of them made most, also in the plots."""
    key = {"method": "api-key", "issuer": "", "id": "alice"}
    token = {"method": "jwt", "issuer": "https://id.example", "id": "alice"}
    bob = {"method": "api-key", "issuer": "", "id": "bob"}
    page = _page(tmp_path, request(principal=token, rows=9), request(principal=key), request(principal=bob))
    assert heading(page, "callers") == "alice (jwt of https://id.example) made 82 % of all rows"
    names = [spoken(one) for one in tree(page).findall(".//section[@id='callers']/figure[1]/ul/li")]
    assert names == ["alice (jwt of https://id.example)", "alice (api-key)", "bob"]
    assert "alice (jwt of https://id.example): 9" in spoken(tree(page).find(".//section[@id='callers']/figure[1]"))


def test_suspects_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """So that nobody is blamed for what somebody with the same id has done."""
    suspected = [
        event("query.suspected", principal="alice", method="jwt", issuer="https://id.example"),
        event("query.suspected", principal="alice", method="jwt", issuer="https://id.example"),
        event("query.suspected", principal="alice", method="api-key"),
        event("query.suspected", principal="bob", method="api-key"),
    ]
    page = _page(tmp_path, *suspected)
    told = "3 callers were suspected, alice (jwt of https://id.example) the most, twice"
    assert heading(page, "suspects") == told
    names = [spoken(one) for one in tree(page).findall(".//section[@id='suspects']//tbody//th")]
    assert {"alice (jwt of https://id.example)", "alice (api-key)", "bob"} <= set(names)


def test_more_files_than_are_named(tmp_path: Path) -> None:
    """Of many files that cannot be read, some are named and the rest are counted."""
    for number in range(23):
        (tmp_path / f"{number}.jsonl.gz").write_bytes(b"no")
    log_of(tmp_path / "whole.jsonl", [{**request(), "chain": None}])
    page = audit_report(tmp_path, now=NOW)
    assert "and 3 more" in section(page, "reading")
    assert "files without chains" in section(page, "reading")
    assert heading(page, "reading") == "23 files and 0 lines of 1 could not be used"


def test_what_is_asked_for_is_checked(tmp_path: Path) -> None:
    """No path, and one that is not there."""
    with pytest.raises(ConfigurationError, match="at least one"):
        audit_report([])
    with pytest.raises(ConfigurationError, match="no such audit log"):
        audit_report(tmp_path / "gone.jsonl")


def test_now_is_now(tmp_path: Path) -> None:
    """Without ``now``, records of this moment are shown."""
    record = request(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}Z")
    assert heading(audit_report(str(log_of(tmp_path / "a.jsonl", [record]))), "callers").startswith("All rows")


# Whether it is proved ------------------------------------------------------------------------------------------------


def test_a_log_that_holds(tmp_path: Path) -> None:
    """The page says so first, and how far a signed head proves it."""
    log_of(tmp_path / "audit-0123456789abcdef-000001.jsonl", [request()])
    page = audit_report(tmp_path, now=NOW, verification=Verification(chains=[Chain(head=4)]))
    assert findings(page)[0] == heading(page, "integrity") == "The chain holds: 5 records as they were written"


def test_a_log_that_was_tampered_with(tmp_path: Path) -> None:
    """The page says so first; chains with problems stand before the others, and what they say is text."""
    broken = Chain("fedcba9876543210", problems=["record 3: <b>edited</b>"], more_problems=7, since="2026-12")
    found = Verification(is_intact=False, problems=["heads: <i>"], chains=[*[Chain() for _ in range(60)], broken])
    log_of(tmp_path / "audit-fedcba9876543210-000001.jsonl", [request()])
    page = audit_report(tmp_path, now=NOW, verification=found)
    assert findings(page)[0] == "The log was tampered with, or is damaged: 9 problems"
    told = section(page, "integrity")
    assert "<b>edited</b>" in told
    assert "heads: <i>" in told
    assert "And 11 other chains." in told
    assert told.index("fedcba9876543210") < told.index("0123456789abcdef")


def test_a_file_that_is_slipped_in_is_not_shown(tmp_path: Path) -> None:
    """Beside chains that were verified, a file of no chain, or of another one, is left out, and the page says so."""
    log_of(tmp_path / "audit-0123456789abcdef-000001.jsonl", [request()])
    forged = request(principal={"method": "api-key", "issuer": "", "id": "forged"})
    log_of(tmp_path / "audit-00000000000000aa-000001.jsonl", [forged])
    log_of(tmp_path / "more.jsonl", [forged])
    assert "forged" in audit_report(tmp_path, now=NOW)
    page = audit_report(tmp_path, now=NOW, verification=Verification())
    assert "forged" not in page
    assert "2 files of no chain that was verified: left out." in section(page, "reading")


def test_a_line_after_the_verified_ones_is_not_shown(tmp_path: Path) -> None:
    """A whole record without an end of line is a torn one to a verification: it is not shown as one that holds."""
    forged = json.dumps(request(principal={"method": "api-key", "issuer": "", "id": "forged"}))
    path = log_of(tmp_path / "audit-0123456789abcdef-000001.jsonl", [request()] * 5)
    with path.open("a") as file:
        file.write(forged)
    page = audit_report(tmp_path, now=NOW, verification=Verification())
    assert "forged" not in page
    told = section(page, "reading")
    assert "1 line after the last record that was verified, written since or torn: left out." in told
    assert "5 records" in told
    found = Verification(is_intact=False, chains=[Chain(problems=["line 3"])])
    assert "forged" in audit_report(tmp_path, now=NOW, verification=found)


def test_a_chain_of_which_nothing_holds_is_not_shown(tmp_path: Path) -> None:
    """What somebody has made up under another key is told as a problem, and its callers are not."""
    forged = request(principal={"method": "api-key", "issuer": "", "id": "forged"})
    log_of(tmp_path / "audit-0123456789abcdef-000001.jsonl", [request()])
    log_of(tmp_path / "audit-00000000000000aa-000001.jsonl", [forged])
    made_up = Chain("00000000000000aa", records=0, problems=["chained with another key"])
    page = audit_report(tmp_path, now=NOW, verification=Verification(is_intact=False, chains=[Chain(), made_up]))
    assert "forged" not in page
    assert "chained with another key" in page


# Whether it is safe --------------------------------------------------------------------------------------------------


def test_the_policy_allows_one_style_and_nothing_else(of_a_week: str) -> None:
    """No script, no picture, no font, no frame, no form: only the style whose digest it names."""
    root = tree(of_a_week)
    policy = root.find(".//meta[@http-equiv='Content-Security-Policy']")
    style = root.find(".//style")
    assert policy is not None
    assert style is not None
    digest = base64.b64encode(hashlib.sha256((style.text or "").encode()).digest()).decode()
    assert (
        policy.get("content") == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    head = root.find("head")
    assert head is not None
    assert [one.get("http-equiv") or one.get("charset") for one in head][:2] == ["utf-8", "Content-Security-Policy"]
    assert re.search(r"url\(|@import|expression", style.text or "") is None


def test_nothing_leads_elsewhere(of_a_week: str) -> None:
    """There is no attribute that could load, run or style anything."""
    parsed = Parsed(of_a_week)
    assert set(parsed.values) <= _ALLOWED_ATTRIBUTES
    assert all(value.startswith("#") for value in parsed.values["href"])
    assert "http://" not in of_a_week
    assert "https://" not in of_a_week


def everywhere(text: str) -> list[dict[str, Any]]:
    """Records with a text wherever one may stand."""
    principal = {"method": text, "issuer": text, "id": text}
    output = {"labels": {text: 200}, "confidence": {"0.5": 200, text: 1}}
    model = {"name": text, "version": text, "digest": text}
    asked = request(principal=principal, address=text, method=text, route=text, model=model, output=output, chain=text)
    refused = {**asked, "status": 429, "refused_by": text, "rule": text, "reason": text, "guards": [text]}
    facts = {text: text, "principal": text, "reason": text}
    happened = [
        event(name, **facts) for name in ("query.suspected", "drift.found", "lockdown.set", f"model.{text}", text)
    ]
    several = [*happened, *happened[-2:], happened[-1]]  # or equal numbers would be ranked by name
    odd = [{**asked, "time": text}, {**asked, text: text}]
    return [asked, refused, refused, {**refused, "rule": None}, *several, *odd]


def _skeleton(page: str) -> list[tuple[str, tuple[str, ...]]]:
    return Parsed(page).elements


@pytest.mark.parametrize("text", _HOSTILE, ids=range(len(_HOSTILE)))
def test_hostile_texts_are_texts(tmp_path: Path, text: str) -> None:
    """With a hostile text everywhere, the page has the elements and attributes that it has with a harmless one."""
    page = _page(tmp_path, *everywhere(text), title=text)
    assert _skeleton(page) == _skeleton(_page(tmp_path, *everywhere("harmless"), title="harmless"))
    tree(page)
    assert not set(re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\ud800-\udfff]", page))
    assert len(page) < 200_000


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
def test_no_text_makes_an_element(tmp_path: Path, text: str) -> None:
    """Any text, in any field."""
    page = _page(tmp_path, *everywhere(text), title=text)
    assert _skeleton(page) == _skeleton(_page(tmp_path, *everywhere("harmless"), title="harmless"))
    tree(page)


_NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
_JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from([one[:80] for one in _HOSTILE]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
_FIELDS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys((*request(), "facts"), _JSON)
    | {"event": st.sampled_from(["request", "query.suspected", "drift.found", "model.loaded"])},
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_FIELDS, max_size=4))
def test_any_record_makes_a_page(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    """Whatever stands in the members of records, a well-formed page comes out, with our elements alone."""
    page = _page(tmp_path, *[{**request(), "facts": {}, **record} for record in records])
    tree(page)
    assert set(Parsed(page).values) <= _ALLOWED_ATTRIBUTES
