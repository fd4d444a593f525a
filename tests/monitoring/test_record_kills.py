"""Workers of a real server that are killed under load: whatever was answered is on record."""

import functools
import http.client
import os
import secrets
import signal
import threading
from pathlib import Path
from urllib.parse import urlsplit

from mlguard import verify_audit_log
from tests.monitoring.audit_logs import KEY, requests
from tests.servers import program, wait_until

_CALLERS = 4
_KILLS = 3


class Load:
    """Callers who ask again and again, and note each answer that they get.

    Attributes:
        answered: The ids of their requests, and with what status.
        processes: Those that have answered.
    """

    def __init__(self, url: str) -> None:
        self.answered: dict[str, int] = {}
        self.processes: set[int] = set()
        self.lost = 0
        self._place = urlsplit(url).netloc
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(_CALLERS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def is_under_way(self, killed: set[int], enough: int) -> bool:
        """Whether there are so many answers, and a process that is still to be killed."""
        return len(self.answered) > enough and not self.processes <= killed

    def _ask(self) -> None:
        while not self._is_over.is_set():
            connection = http.client.HTTPConnection(self._place, timeout=30)
            try:
                for path in ("/", "/nowhere") * 8:  # and then by another connection, which another process may take
                    self._ask_once(connection, path)
            except (OSError, http.client.HTTPException):  # whoever would have answered is dead
                self.lost += 1
            finally:
                connection.close()

    def _ask_once(self, connection: http.client.HTTPConnection, path: str) -> None:
        connection.request("GET", path)
        answer = connection.getresponse()
        self.answered[str(answer.headers["x-request-id"])] = answer.status  # before its body: it counts from here on
        body = answer.read()
        if answer.status == 200:
            self.processes.add(int(body))


def test_what_a_killed_worker_has_answered_is_on_record(tmp_path: Path) -> None:
    """Of two workers under load one is killed, then the other, and one of their successors; each promise is kept."""
    environment = {"AUDIT_LOG": str(tmp_path), "AUDIT_KEY": KEY}
    arguments = ("-m", "uvicorn", "--workers", "2", "--port", "0", "--no-access-log", "tests.service_of_records:app")
    killed: set[int] = set()
    with program(*arguments, environment=environment) as running, Load(running.url()) as load:
        wait_until(lambda: len(load.processes) == 2)
        for _ in range(_KILLS):
            enough = len(load.answered) + 50
            wait_until(functools.partial(load.is_under_way, killed, enough))
            one = secrets.choice([*load.processes - killed])
            os.kill(one, signal.SIGKILL)
            killed.add(one)
    assert load.lost >= 1
    assert set(load.answered.values()) == {200, 404}
    result = verify_audit_log(tmp_path, key=KEY)
    assert result.is_intact, [chain.problems for chain in result.chains]
    endings = [chain.ending for chain in result.chains]
    assert len(endings) - endings.count("closed") == _KILLS  # those that were asked to end have said so
    recorded = {record["request_id"]: record["status"] for record in requests(tmp_path)}
    assert {one: recorded.get(one) for one in load.answered} == load.answered
    assert len(recorded) == len(requests(tmp_path))
