"""What every source does with a read: the name is checked, the wait ends, the answer is judged, the audit is told."""

import importlib
import re
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from pydantic import SecretStr

from mlguard._lookout import restart_after_fork
from mlguard.errors import ConfigurationError, SecretNotFoundError, SecretUnavailableError
from mlguard.monitoring.events import record_event
from mlguard.secrets import _quiet
from mlguard.secrets._answers import MAX_SIZE, Missing, Unusable, judged

#: Bytes of an answer that holds one: in JSON each byte may take six, and Vault sends all keys of a secret.
MAX_ANSWER = 8 * MAX_SIZE

_PART = r"(?!\.{1,2}(?:[/#]|\Z))[A-Za-z0-9._+=@:-]+"
#: Parts of a path, none of which leads elsewhere, and behind # the key within a secret that is a JSON object.
NAMES = re.compile(rf"{_PART}(?:/{_PART})*(?:#[A-Za-z0-9._-]{{0,128}})?", re.ASCII)
_LONGEST_NAME = 512
_MOST_WAITING = 4  # calls of one source that have had no answer yet; each of them holds a thread


class Reading:
    """How one source is read.

    Args:
        source: Names the source in errors and in the audit: its kind and place, without a credential.
        names: What its names look like.
        timeout: Seconds that one read may take in all, however slowly the source speaks. None: it is of this machine,
            and is asked without a thread.
    """

    def __init__(self, source: str, *, names: re.Pattern[str] = NAMES, timeout: float | None = None) -> None:
        self.source = source
        self._names = names
        self._timeout = timeout
        self.restart_in_child()
        restart_after_fork(self)

    def restart_in_child(self) -> None:
        """After a fork, in the child: who waits for an answer has stayed behind, and would keep its place for ever."""
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)

    def read(self, name: str, fetch: Callable[[str], object]) -> SecretStr:
        """Read one secret, and tell the audit.

        Args:
            name: Which one.
            fetch: Asks the source. What it raises besides ``Unusable`` is reported by its type alone, because texts of
                clients quote what they were sent.

        Raises:
            SecretUnavailableError: As :class:`~mlguard.secrets.source.SecretSource` says.
        """
        outcome = self._outcome(name, fetch)
        if isinstance(outcome, SecretUnavailableError):  # raised out here, or it had what was sent as its context
            record_event("secret.unavailable", name=outcome.name, source=self.source, reason=outcome.reason)
            raise outcome
        record_event("secret.read", name=name, source=self.source)
        return outcome

    def _outcome(self, name: str, fetch: Callable[[str], object]) -> SecretStr | SecretUnavailableError:
        # read(os.environ["TOKEN"]) passes the secret in the place of its name: what looks like no name is not quoted.
        if not isinstance(name, str) or len(name) > _LONGEST_NAME or not self._names.fullmatch(name):
            return SecretUnavailableError("(no name)", self.source, "what was asked for is no name of a secret here")
        try:
            return SecretStr(judged(self._in_time(lambda: fetch(name))))
        except Missing as reason:
            return SecretNotFoundError(name, self.source, str(reason))
        except Unusable as reason:
            return SecretUnavailableError(name, self.source, str(reason))
        except Exception as error:
            return SecretUnavailableError(name, self.source, f"it cannot be asked ({type(error).__name__})")

    def _in_time(self, ask: Callable[[], object]) -> object:
        """What asking yields, in a thread that is left behind if it takes too long."""
        if self._timeout is None:
            return ask()
        end = time.monotonic() + self._timeout
        places = self._waiting
        if not places.acquire(timeout=self._timeout):
            raise Unusable("earlier calls have had no answer yet")
        answers: SimpleQueue[tuple[object, Exception | None]] = SimpleQueue()

        def run() -> None:
            try:
                with _quiet.clients():
                    answers.put((ask(), None))
            except Exception as error:
                answers.put((None, error))
            finally:
                places.release()

        try:
            # A daemon: what hangs must not keep the process from ending.
            threading.Thread(target=run, name="mlguard-secret", daemon=True).start()
        except RuntimeError:
            places.release()
            raise
        try:
            answer, error = answers.get(timeout=max(end - time.monotonic(), 0))
        except Empty:
            raise Unusable(f"it has not answered within {self._timeout:g} seconds") from None
        if error is not None:
            raise error
        return answer


def load_client(module: str, *, source: str, package: str, extra: str) -> Any:
    """Import a part of the client of a secret store.

    Raises:
        ConfigurationError: It is not installed. The text names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        missing = f"{source} needs the package {package}: pip install 'mlguard[{extra}]'"
    raise ConfigurationError(missing)
