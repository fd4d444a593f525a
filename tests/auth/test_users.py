"""Accounts in memory."""

import asyncio
from collections.abc import Callable

import pytest

from mlguard import ConfigurationError, User, UserDirectory, Users

ALICE = User("1", "hash", {"predict"})


def test_users_are_found_by_name_and_by_id() -> None:
    """In exactly that spelling, and by nothing else."""
    users = Users({"alice": ALICE, "nobody": User("2", None)})
    assert isinstance(users, UserDirectory)
    assert asyncio.run(users.find("alice")) == asyncio.run(users.get("1")) == ALICE
    for name in ("", "Alice", "1", "alice ", "hash"):
        assert asyncio.run(users.find(name)) is None
    assert asyncio.run(users.get("alice")) is None


def test_hash_is_replaced_unless_it_was_changed_in_between() -> None:
    """The upgraded hash of an old password must not bring that password back."""
    users = Users({"alice": ALICE})
    asyncio.run(users.update_hash(ALICE, "changed"))
    asyncio.run(users.update_hash(ALICE, "upgraded"))
    found = asyncio.run(users.find("alice"))
    assert found is not None
    assert found.password_hash == "changed"
    assert found.scopes == {"predict"}


def test_repr_holds_no_hash_and_no_name() -> None:
    """Neither of one user nor of all."""
    assert "hash" not in repr(ALICE).replace("password_hash", "")
    assert repr(Users({"alice": ALICE})) == "Users(1 accounts)"


@pytest.mark.parametrize(
    "make",
    [
        lambda: User("", "hash"),
        lambda: User(1, "hash"),  # type: ignore[arg-type]
        lambda: User("1", "hash", "predict"),
        lambda: User("1", "hash", {"predict admin"}),
        lambda: User("1", "hash", {""}),
        lambda: User("1", "hash", None),  # type: ignore[arg-type]
        lambda: Users({"alice": "hash"}),  # type: ignore[dict-item]
        lambda: Users([ALICE]),  # type: ignore[arg-type]
        lambda: Users({"alice": ALICE, "bob": ALICE}),
    ],
)
def test_what_cannot_work_is_refused(make: Callable[[], object]) -> None:
    """A scope with a space in it would be two; two accounts with one id would be one."""
    with pytest.raises(ConfigurationError):
        make()
