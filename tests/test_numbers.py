"""Settings that are numbers."""

from typing import Any

import pytest

from mlguard import ConfigurationError
from mlguard._numbers import is_number, seconds, whole


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 0, 5])
def test_anything_but_a_whole_number_in_bounds_is_refused(value: Any) -> None:
    """The error has the setting and both bounds."""
    with pytest.raises(ConfigurationError, match=r"^Guard\(size=\.\.\.\) is a whole number from 1 to 4$"):
        whole("Guard(size=...)", value, least=1, most=4)


def test_without_an_upper_bound() -> None:
    """Any number that is large enough will do."""
    assert whole("Guard(size=...)", 10**30, least=0) == 10**30
    with pytest.raises(ConfigurationError, match=r"^Guard\(size=\.\.\.\) is a whole number of at least 0$"):
        whole("Guard(size=...)", -1, least=0)


def test_a_boolean_is_no_number() -> None:
    """A setting that takes 1 does not take True."""
    assert [is_number(value) for value in (1, 1.5, True, "1", None)] == [True, True, False, False, False]


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), float("inf"), -1, 0.5, 86_400.5])
def test_anything_but_seconds_in_bounds_is_refused(value: Any) -> None:
    """The error has the setting and both bounds."""
    with pytest.raises(ConfigurationError, match=r"^Guard\(age=\.\.\.\) is a number of seconds from 1 to 86,400$"):
        seconds("Guard(age=...)", value, least=1, most=86_400)


def test_seconds_are_floats_above_nothing() -> None:
    """Where there is no least number, 0 is too little."""
    assert [seconds("Guard(age=...)", value, most=60) for value in (1e-9, 60)] == [1e-9, 60.0]
    for value in (0, -1, 61, float("nan")):
        with pytest.raises(ConfigurationError, match=r"is a number of seconds above 0, at most 60$"):
            seconds("Guard(age=...)", value, most=60)
