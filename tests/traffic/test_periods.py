"""Budgets as they are written, and the calendar."""

import re
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard import ConfigurationError
from mlguard.traffic.periods import Period, Quota, Unit

UNITS = [unit for unit in get_args(Unit) if unit != "ever"]
moments = st.datetimes(datetime(1970, 1, 1), datetime(2990, 1, 1), timezones=st.just(UTC))


@pytest.mark.parametrize(
    ("unit", "name", "begins", "ends"),
    [
        ("hour", "2026-12-31T23", "2026-12-31T23:00", "2027-01-01T00:00"),
        ("day", "2026-12-31", "2026-12-31T00:00", "2027-01-01T00:00"),
        ("week", "2026-W53", "2026-12-28T00:00", "2027-01-04T00:00"),
        ("month", "2026-12", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("year", "2026", "2026-01-01T00:00", "2027-01-01T00:00"),
    ],
)
def test_periods_are_those_of_the_calendar(unit: Unit, name: str, begins: str, ends: str) -> None:
    """In UTC, the week from Monday, counted by ISO 8601."""
    moment = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    period = Period.at(unit, moment)
    assert (period.name, f"{period.begins:%Y-%m-%dT%H:%M}", f"{period.ends:%Y-%m-%dT%H:%M}") == (name, begins, ends)


@given(st.sampled_from(UNITS), moments)
def test_periods_follow_one_another(unit: Unit, moment: datetime) -> None:
    """Each moment is in exactly one, and the next begins where one ends."""
    period = Period.at(unit, moment.timestamp())
    assert period.begins <= moment < period.ends
    assert Period.at(unit, period.begins.timestamp()) == period
    after = Period.at(unit, period.ends.timestamp())
    assert (after.begins, after.name == period.name) == (period.ends, False)
    assert period.seconds == period.ends.timestamp() - period.begins.timestamp()


@given(moments)
def test_one_period_never_ends(moment: datetime) -> None:
    """What is spent for ever is spent in every moment, and only where that is meant."""
    period = Period.at("ever", moment.timestamp())
    assert period == Period.at("ever", 0.0)
    assert period.begins <= moment < period.ends
    assert Quota.parse("5/ever", where="test", may_end=True) == Quota(5, "ever")


@pytest.mark.parametrize(
    "text", ["50000/month", " 50000 / month ", "1/hour", "7/day", "7/week", "999999999999999/year"]
)
def test_what_can_be_written(text: str) -> None:
    """A number and a period, spelt in one way."""
    quota = Quota.parse(text, where="test")
    assert Quota.parse(str(quota), where="test") == quota


@given(st.one_of(st.text(max_size=30), st.integers(), st.none(), st.binary()))
def test_anything_else_is_an_error(text: Any) -> None:
    """Whatever it is."""
    if isinstance(text, str) and re.fullmatch(
        r"[1-9][0-9]{0,14} ?/ ?(hour|day|week|month|year)", text.strip(), re.ASCII
    ):
        return
    with pytest.raises(ConfigurationError, match="is no budget"):
        Quota.parse(text, where="test")


@pytest.mark.parametrize(
    "text",
    [
        "0/month",
        "-1/month",
        "1.5/month",
        "5/fortnight",
        f"{10**30}/month",
        "5/months",
        "5/ever",
        "5",
        "/month",
        "\uff15/month",
        "1e3/day",
    ],
)
def test_wrong_budgets(text: str) -> None:
    """Nothing is rounded, guessed or taken for no limit."""
    with pytest.raises(ConfigurationError, match="50000/month"):
        Quota.parse(text, where="test")
