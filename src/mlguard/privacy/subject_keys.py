"""A key for each person, so that whatever was written about them can be made unreadable where it stands."""

import re
import secrets
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mlguard._base64url import decode, encode
from mlguard.errors import ConfigurationError, SealedValueError, SubjectErasedError
from mlguard.monitoring.events import record_event
from mlguard.privacy._key_rings import key_ring, text_bytes
from mlguard.privacy.pseudonyms import Pseudonymiser
from mlguard.privacy.subject_key_file import KeyRecord, SubjectKeyStore

_FORM = b"mlguard subject keys 1"
_KEY = 32  # bytes: AES-256
_NONCE = 12  # bytes (NIST SP 800-38D, section 5.2.1.1)
_ID = 16  # bytes of a key's id
_SEALED = re.compile(r"s1\.([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{38,})")
_NAMES = KeyRecord("", "", "")  # the place of the key that makes pseudonyms of subjects
_AT_ONCE = 1_000  # records of one step


class SubjectKeys:
    """Seals what is written about a person with a key of that person's own, which can be shredded.

    For logs, tables and queues that cannot or must not be changed: a line keeps its bytes for ever, so that a chain of
    hashes over it stays valid, and :meth:`erase` makes what is sealed in it unreadable everywhere, in copies and
    backups too ("crypto-shredding"). What stands beside it in clear stays.

    A sealed text is ``s1.<key id>.<AES-256-GCM>``. The id is random and not made from the subject, so that after an
    erasure nobody can tell any more whose lines they were. It shows how long the value is, and which texts are of one
    subject.

    A key file has wrapped keys only, under pseudonyms that need ``keys`` too. **Whoever has a copy of the file from
    before an erasure, and** ``keys``, **can still read.** So keep no backup of it longer than you may take to erase,
    keep it apart from the logs, and from time to time put a new key first in ``keys``, :meth:`rewrap`, and destroy the
    old key: from then on, older copies of the file open nothing.

    Calls look into the file, 15 to 40 microseconds in all; the first one of a subject writes to the disk and waits for
    it. In ``async`` code, call them in a thread.

    Args:
        store: Where the keys are kept, such as ``SubjectKeyFile("subjects.db")``. Made for it at first use.
        keys: Secrets that wrap the subjects' keys, by key id, at least 128 bits each. The first one wraps, all of them
            unwrap.

    Raises:
        ConfigurationError: No key, an id that cannot be written, a secret that can be guessed or that is there twice;
            or none of them opens this file.
        UnavailableError: From a call: the file cannot be used now (503, in a request).
    """

    def __init__(self, store: SubjectKeyStore, *, keys: Mapping[str, str | bytes]) -> None:
        if not isinstance(store, SubjectKeyStore):
            raise ConfigurationError('SubjectKeys(store) is a place for keys, such as SubjectKeyFile("subjects.db")')
        ring = key_ring(keys, where="SubjectKeys")
        self._store = store
        self._wraps = {key_id: AESGCM(_derived(secret)) for key_id, secret in ring.items()}
        self._newest = next(iter(ring))
        self._names = Pseudonymiser({"1": self._name_key()})

    def seal(self, subject: str, value: str, *, context: str) -> str:
        """Make a value unreadable to all who have not the keys, and to everybody once its subject is erased.

        Args:
            subject: Whom it is about, written in one way: a user's id, say.
            value: What to seal.
            context: Where it will stand, such as ``"audit email"``. It opens only there, so that nobody moves it.

        Raises:
            TypeError: One of them is no str.
            ValueError: The subject or the context is empty, or one of them has halves of surrogate pairs.
            UnavailableError: The key cannot be read or made now (503, in a request).
        """
        bound, text = _context(context), _text(value, "value")
        record = self._record(subject) or self._new_record(subject)
        nonce = secrets.token_bytes(_NONCE)
        sealed = AESGCM(self._unwrapped(record)).encrypt(nonce, text, _bound(record.key_id, bound))
        return f"s1.{record.key_id}.{encode(nonce + sealed)}"

    def open(self, sealed: str, *, context: str) -> str:
        """The value of a sealed text.

        Args:
            sealed: As :meth:`seal` has made it.
            context: As it was sealed for.

        Raises:
            SubjectErasedError: Its subject was erased, or it is of another key file.
            SealedValueError: It is no sealed text, was altered, or is for another context.
            UnavailableError: The key cannot be read now (503, in a request).
        """
        bound = _context(context)
        match = _SEALED.fullmatch(sealed) if isinstance(sealed, str) else None
        content = decode(match[2]) if match is not None else None
        if match is None or content is None:
            raise SealedValueError("this is no sealed text")
        record = self._store.by_id(match[1])
        if record is None:
            raise SubjectErasedError("there is no key for this text: its subject was erased")
        value = _decrypted(AESGCM(self._unwrapped(record)), content, _bound(record.key_id, bound))
        if value is None:
            raise SealedValueError("this text was altered, or sealed for another context")
        return value.decode()

    def key_id(self, subject: str) -> str | None:
        """What the texts of a subject carry; None if nothing was sealed for them, or they were erased."""
        record = self._record(subject)
        return record.key_id if record is not None else None

    def erase(self, subject: str) -> bool:
        """Shred a subject's key: nothing that was sealed for them opens any more. Cannot be undone.

        What is sealed for them later is under a new key. What another process is sealing at this moment is under one or
        the other.

        Returns:
            Whether there was one.

        Raises:
            UnavailableError: The file cannot be written now: nothing is erased (503, in a request).
        """
        removed = self._store.remove(self._name(subject))
        if removed is not None:
            record_event("subject.erased", key=removed.key_id)
        return removed is not None

    def rewrap(self) -> int:
        """Wrap all keys with the first of ``keys``, so that the others can be destroyed.

        Run it when every process has the new key first. Texts stay as they are. Run it again until it returns 0.

        Returns:
            How many were wrapped anew.
        """
        changed, step = 0, []
        for record in self._store:
            if record.wrapped.partition(".")[0] != self._newest:
                step.append(record._replace(wrapped=self._wrapped(record, self._unwrapped(record))))
            if len(step) >= _AT_ONCE:
                changed += self._store.replace(step)
                step = []
        changed += self._store.replace(step)
        record_event("subject.keys_rewrapped", key=self._newest, count=changed)
        return changed

    def _name_key(self) -> bytes:
        """What makes pseudonyms of subjects: one for the file, whatever wraps it."""
        record = self._store.of(_NAMES.subject)
        if record is None:
            # Without the key that names were made with, nobody who is in the file could be found, nor erased.
            if any(True for _ in self._store) and self._store.of(_NAMES.subject) is None:
                raise ConfigurationError("SubjectKeys(store): its first record is missing; use a copy that has it")
            wrapped = self._wrapped(_NAMES, secrets.token_bytes(_KEY))
            record = self._store.add(_NAMES._replace(wrapped=wrapped))
        return self._unwrapped(record)

    def _name(self, subject: str) -> str:
        text = _text(subject, "subject")
        if not text:
            raise ValueError("the subject is empty")
        return self._names.pseudonym(text, purpose="subject key")

    def _record(self, subject: str) -> KeyRecord | None:
        return self._store.of(self._name(subject))

    def _new_record(self, subject: str) -> KeyRecord:
        record = KeyRecord(self._name(subject), encode(secrets.token_bytes(_ID)), "")
        return self._store.add(record._replace(wrapped=self._wrapped(record, secrets.token_bytes(_KEY))))

    def _wrapped(self, record: KeyRecord, key: bytes) -> str:
        nonce = secrets.token_bytes(_NONCE)
        wrapped = self._wraps[self._newest].encrypt(nonce, key, _bound(record.key_id, text_bytes(record.subject)))
        return f"{self._newest}.{encode(nonce + wrapped)}"

    def _unwrapped(self, record: KeyRecord) -> bytes:
        name, _, wrapped = record.wrapped.partition(".")
        wrap, content = self._wraps.get(name), decode(wrapped)
        if wrap is not None and content is not None:
            key = _decrypted(wrap, content, _bound(record.key_id, text_bytes(record.subject)))
            if key is not None:
                return key
        raise ConfigurationError("SubjectKeys(keys=...): none of them opens this file, or it was altered")

    def __repr__(self) -> str:
        return f"SubjectKeys({self._store!r}, keys={list(self._wraps)})"


def _derived(secret: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=_KEY, salt=None, info=_FORM).derive(secret)


def _bound(key_id: str, context: bytes) -> bytes:
    """What a ciphertext is bound to. The id has a fixed length, or none for the key that makes pseudonyms."""
    return _FORM + b"\0" + key_id.encode() + b"\0" + context


def _context(context: str) -> bytes:
    bound = _text(context, "context")
    if not bound:
        raise ValueError("the context is empty: say where the text stands")
    return bound


def _text(value: object, what: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"the {what} is a str, and not {type(value).__name__}")
    return text_bytes(value)


def _decrypted(cipher: AESGCM, content: bytes, bound: bytes) -> bytes | None:
    try:
        return cipher.decrypt(content[:_NONCE], content[_NONCE:], bound)
    except (InvalidTag, ValueError):  # a nonce too short
        return None
