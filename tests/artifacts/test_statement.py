"""What was signed: also a signer's statement is read strictly, for keys sign by mistake and by force."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard import ModelSignatureError
from mlguard.artifacts._paths import is_portable
from mlguard.artifacts._statement import make_statement, read_statement, write_statement

A, B = (hashlib.sha256(content).hexdigest() for content in (b"a", b"b"))
STATEMENT = make_statement("iris", {"b": B, "a/a": A})
PAYLOAD = write_statement(STATEMENT, ["model.sig"])


def changed(change: Callable[[Any], object]) -> bytes:
    document = json.loads(PAYLOAD)
    change(document)
    return json.dumps(document).encode()


def resources(*names: str) -> bytes:
    """A statement about files of these names that agrees with itself."""
    digest = hashlib.sha256(bytes.fromhex(A) * len(names)).hexdigest()

    def change(document: Any) -> None:
        document["subject"][0]["digest"]["sha256"] = digest
        document["predicate"]["resources"] = [{"name": n, "algorithm": "sha256", "digest": A} for n in names]

    return changed(change)


def test_a_statement_is_read_as_it_was_written() -> None:
    """Names, digests and their order, on which the digest of the whole depends."""
    read = read_statement(PAYLOAD)
    assert read == STATEMENT
    assert [*read.files] == ["a/a", "b"]
    assert read.digest == hashlib.sha256(bytes.fromhex(A + B)).hexdigest()


def test_another_order_is_read_too() -> None:
    """The order is the signer's, and has its own digest of the whole."""
    assert [*read_statement(resources("b", "a")).files] == ["b", "a"]


def test_other_members_of_the_predicate_are_ignored() -> None:
    """As version 1.0 of the predicate says."""
    assert read_statement(changed(lambda d: d["predicate"].update(card={"size": 1.5}))) == STATEMENT


def _first(document: Any) -> Any:
    return document["predicate"]["resources"][0]


def _form(document: Any) -> Any:
    return document["predicate"]["serialization"]


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "another type": (lambda d: d.update(_type="https://in-toto.io/Statement/v0.1"), "no statement about a model"),
    "another predicate": (lambda d: d.update(predicateType="https://slsa.dev/provenance/v1"), "no statement about a"),
    "the predicate of 0.2": (lambda d: d.update(predicateType="https://model_signing/Digests/v0.1"), "no statement"),
    "more": (lambda d: d.update(more=1), "members"),
    "no subject": (lambda d: d.pop("subject"), "members"),
    "no subjects": (lambda d: d.update(subject=[]), "about one model"),
    "two subjects": (lambda d: d["subject"].append(d["subject"][0]), "about one model"),
    "subject a text": (lambda d: d.update(subject="x"), "about one model"),
    "subject without a digest": (lambda d: d["subject"][0].pop("digest"), "members"),
    "subject's name a number": (lambda d: d["subject"][0].update(name=1), "no name for the model"),
    "subject's name of two lines": (lambda d: d["subject"][0].update(name="a\nkey: b"), "no name for the model"),
    "subject's name a path": (lambda d: d["subject"][0].update(name="a/b"), "no name for the model"),
    "subject's name empty": (lambda d: d["subject"][0].update(name=""), "no name for the model"),
    "subject's digest another": (lambda d: d["subject"][0].update(digest={"sha256": A}), "contradicts itself"),
    "subject's digest of SHA-1": (lambda d: d["subject"][0].update(digest={"sha1": A}), "members"),
    "predicate a list": (lambda d: d.update(predicate=[]), "no predicate"),
    "predicate empty": (lambda d: d.update(predicate={}), "how files were hashed"),
    "shards": (lambda d: _form(d).update(method="shards", shard_size=10), "in shards"),
    "blake3": (lambda d: _form(d).update(hash_type="blake3"), "another hash than SHA-256"),
    "hash a list": (lambda d: _form(d).update(hash_type=["sha256"]), "another hash than SHA-256"),
    "no method": (lambda d: _form(d).pop("method"), "in shards"),
    "no resources": (lambda d: d["predicate"].pop("resources"), "lists no file"),
    "resources empty": (lambda d: d["predicate"].update(resources=[]), "lists no file"),
    "resources an object": (lambda d: d["predicate"].update(resources={"a": A}), "lists no file"),
    "resource a text": (lambda d: d["predicate"]["resources"].append("x"), "members"),
    "resource with more": (lambda d: _first(d).update(size=1), "members"),
    "resource of blake2b": (lambda d: _first(d).update(algorithm="blake2b"), "none of SHA-256"),
    "digest short": (lambda d: _first(d).update(digest=A[:-1]), "none of SHA-256"),
    "digest in capitals": (lambda d: _first(d).update(digest=A.upper()), "none of SHA-256"),
    "digest long": (lambda d: _first(d).update(digest=A + "\n"), "none of SHA-256"),
    "digest with a line feed": (lambda d: _first(d).update(digest=A[:-1] + "\n"), "none of SHA-256"),
    "digest a number": (lambda d: _first(d).update(digest=5), "none of SHA-256"),
    "digest another": (lambda d: _first(d).update(digest=B), "contradicts itself"),
    "name a number": (lambda d: _first(d).update(name=5), "leads out of the model"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_form_is_refused(name: str) -> None:
    """With the reason."""
    change, match = CHANGES[name]
    with pytest.raises(ModelSignatureError, match=match):
        read_statement(changed(change))


LEADS_OUT = [
    "", "/", "/etc/passwd", "..", "../b", "a/..", "a/../b", "./a", "a/.", "a//b", "a/", "a\\b", "..\\b", "a\0", "a\nb",
    "\x1b[0m", "\x7f", "\x85", "\ud800", "n" * 10_000, "\u00e9" * 2_049,
]  # fmt: skip


@pytest.mark.parametrize("path", LEADS_OUT)
def test_a_path_that_leads_out_or_is_not_portable_is_refused(path: str) -> None:
    """As is one of 10 KB."""
    assert not is_portable(path)
    with pytest.raises(ModelSignatureError, match="leads out of the model"):
        read_statement(resources("a", path))


@pytest.mark.parametrize("path", ["a", "...", "a b", "\u00e9", "e\u0301", "a:b", "..a", "a..", "~", "n" * 4_096])
def test_other_paths_are_what_they_are(path: str) -> None:
    """Nothing is normalised: two spellings are two files, and so are capital and small letters."""
    assert [*read_statement(resources(path, "A", "b")).files] == [path, "A", "b"]


def test_a_file_is_listed_once() -> None:
    """Or one reader could take the first digest, and another the last."""
    with pytest.raises(ModelSignatureError, match="lists a file twice"):
        read_statement(resources("a", "b", "a"))


def test_a_model_is_a_file_or_a_folder() -> None:
    """Not both."""
    assert [*read_statement(resources(".")).files] == ["."]
    with pytest.raises(ModelSignatureError, match="of one file and of a folder"):
        read_statement(resources(".", "a"))


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"\xff", b"[" * 100_000, PAYLOAD[:-1], PAYLOAD + b"{}",
     PAYLOAD.replace(b'"name"', b'"name":1,"name"', 1), PAYLOAD.replace(b'"iris"', b"NaN"),
     PAYLOAD.replace(b'"predicate":{', b'"predicate":{"card":NaN,'),
     PAYLOAD.replace(b'"predicate":{', b'"predicate":{"card":-Infinity,'), PAYLOAD.replace(b'"iris"', b"9" * 5_000)],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_refused(text: bytes) -> None:
    """Members twice, numbers that are none or endless, nesting without end."""
    with pytest.raises(ModelSignatureError):
        read_statement(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([A, B, "files"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["name", "algorithm", "digest", "sha256", "method"]), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip
PLACES = [
    ("_type",), ("subject",), ("subject", 0), ("subject", 0, "name"), ("subject", 0, "digest"), ("predicateType",),
    ("subject", 0, "digest", "sha256"), ("predicate",), ("predicate", "serialization"), ("predicate", "resources"),
    ("predicate", "serialization", "method"), ("predicate", "serialization", "ignore_paths"),
    ("predicate", "resources", 0), ("predicate", "resources", 1, "name"), ("predicate", "resources", 0, "digest"),
]  # fmt: skip


@given(place=st.sampled_from(PLACES), value=JSON)
def test_anything_in_the_place_of_a_part_is_refused_or_consistent(place: tuple[str | int, ...], value: Any) -> None:
    """By the one error that says so; what is accepted has portable names and the digest that it says."""

    def put(document: Any) -> None:
        for step in place[:-1]:
            document = document[step]
        document[place[-1]] = value

    try:
        read = read_statement(changed(put))
    except ModelSignatureError:
        return
    assert read.files
    assert all(map(is_portable, read.files))
    assert read.digest == STATEMENT.digest


NAMES = st.text(max_size=20).filter(is_portable)


@given(st.dictionaries(NAMES, st.sampled_from([A, B]), min_size=1, max_size=8))
def test_every_statement_that_is_written_is_read(files: dict[str, str]) -> None:
    """Whatever portable names the files have."""
    statement = make_statement("iris", files)
    assert read_statement(write_statement(statement, [])) == statement
    assert {**statement.files} == files
