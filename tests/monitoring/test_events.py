"""Events for an audit: one line each, which nobody can forge."""

import logging

import pytest

from mlguard.monitoring.events import record_event


def test_an_event_is_a_line_with_its_facts(caplog: pytest.LogCaptureFixture) -> None:
    """The line names what happened and each fact; a handler finds both as attributes."""
    with caplog.at_level(logging.INFO, logger="mlguard.audit"):
        record_event("model.loaded", name="iris", version=3, signer=None)
    (line,) = caplog.records
    assert line.getMessage() == "model.loaded name=iris version=3 signer=None"
    assert (line.__dict__["event"], line.__dict__["facts"]) == (
        "model.loaded",
        {"name": "iris", "version": 3, "signer": None},
    )


@pytest.mark.parametrize("name", ["a\nmodel.loaded name=b", "a version=9", "", "\u2028", "'", "x" * 10_000])
def test_a_fact_stays_one_word_of_one_line(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """What somebody else has named starts no line of its own, adds no fact, and buries nothing."""
    with caplog.at_level(logging.INFO, logger="mlguard.audit"):
        record_event("model.refused", name=name, version=1)
    line = caplog.records[0].getMessage()
    assert line.startswith("model.refused name=")
    assert line.endswith(" version=1")
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 300
