"""Each runbook in docs/how-to, played on a service of two processes with a real Redis, to its end."""

import asyncio
import io
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import joblib
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

import mlguard.store
from mlguard import Lockdown, ModelStore, RedisStore, TokenIssuer
from mlguard.__main__ import main
from tests.redis_server import RedisServer, redis_server
from tests.servers import ROOT, Program, can_connect, program, wait_until

WORKERS = 2
KEY = "k3Zq8vN1xW5tR7yB2mC9dF4gH6jL0pQs"
ROW = {"features": [[1.0, 2.0]]}


@dataclass
class Service:
    """What an operator has before them.

    Attributes:
        url: Where the service is.
        redis: Its store.
        models: The store of models, and who may sign in it.
        keys: The secret of each caller.
        running: The processes.
    """

    url: str
    redis: RedisServer
    models: ModelStore
    keys: dict[str, str]
    running: Program

    def ask(self, caller: str = "", *, path: str = "/predict", token: str = "") -> httpx.Response:
        """One request, on a connection of its own: any worker may take it."""
        headers = {"authorization": f"Bearer {token}"} if token else {"x-api-key": self.keys.get(caller, "")}
        with httpx.Client(
            trust_env=False, verify=False, timeout=30, headers=headers
        ) as client:  # no certificates to load
            url = f"{self.url}{path}"
            return client.post(url, json=ROW) if path == "/predict" else client.get(url)

    def on_every_worker(self, holds: Callable[[httpx.Response], object], caller: str = "", **more: Any) -> None:
        """Wait until it holds of the last answers of every worker."""
        last: dict[str, bool] = {}

        def all_agree() -> bool:
            answer = self.ask(caller, **more)
            last[answer.headers["x-process"]] = bool(holds(answer))
            return len(last) == WORKERS and all(last.values())

        wait_until(all_agree)
        for _ in range(10):
            assert holds(self.ask(caller, **more))

    def statuses(self, status: int, caller: str = "", **more: Any) -> None:
        """Wait until every worker answers so."""
        self.on_every_worker(lambda answer: answer.status_code == status, caller, **more)

    def events(self, name: str) -> list[str]:
        """The events of a name that are in the log."""
        return re.findall(rf"^INFO:mlguard\.audit:{re.escape(name)} (.*)$", self.running.output, re.MULTILINE)


Run = Callable[..., str]

HOW_TO = ROOT / "docs" / "how-to"
RUNBOOKS = sorted(HOW_TO.glob("incident-*.md"))


def commands_of(page: Path) -> list[str]:
    """The commands that a page has its reader type."""
    return re.findall(r"`mlguard ([^`]+)`", page.read_text("utf-8"))


@pytest.fixture
def run(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> Run:
    """Runs ``mlguard`` as the operator does, who reads what it says. The runbook has every action that is taken."""
    page = HOW_TO / f"{request.function.__name__.removeprefix('test_').replace('_', '-')}.md"
    written = {" ".join(command.split()[:2]) for command in commands_of(page)}
    monkeypatch.setenv("MLGUARD_STORE_URL", service.redis.url)
    monkeypatch.setenv("MLGUARD_API_KEYS_FILE", str(service.models.root.parent / "keys.json"))

    def run(command: str) -> str:
        monkeypatch.setattr(mlguard.store, "_default", None)
        capsys.readouterr()
        assert " ".join(command.split()[:2]) in written, f"{page.name} has no such step: {command}"
        assert main(command.split()) == 0, capsys.readouterr().err
        return capsys.readouterr().out.strip()

    return run


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, with two callers and two versions of its model."""
    folder = tmp_path_factory.mktemp("incidents")
    signing_key = generate_private_key(SECP256R1())
    (folder / "model-key.pub").write_bytes(
        signing_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (folder / "model-key.pem").write_bytes(signing_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    models = ModelStore(folder / "models", key=signing_key.public_key(), signing_key=signing_key)
    for version in (1.0, 2.0):
        joblib.dump({"version": np.array(version)}, folder / "iris.joblib")
        models.promote("iris", models.save("iris", folder / "iris.joblib").version)
    keys = {name: _new_key(name, folder / "keys.json") for name in ("alice", "bob")}
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        port = _free_port()
        environment: Mapping[str, str] = {
            "MLGUARD_STORE_URL": redis.url,
            "MLGUARD_API_KEYS_FILE": str(folder / "keys.json"),
            "MODELS": str(folder / "models"),
            "MODEL_KEY": str(folder / "model-key.pub"),
            "KEY": KEY,
        }
        arguments = ("-m", "uvicorn", "--workers", str(WORKERS), "--port", str(port), "tests.service_of_incidents:app")
        running = stack.enter_context(program(*arguments, environment=environment))
        wait_until(lambda: running.output.count("Application startup complete") == WORKERS)
        wait_until(lambda: can_connect(f"http://127.0.0.1:{port}"))
        yield Service(f"http://127.0.0.1:{port}", redis, models, keys, running)


def _new_key(name: str, file: Path) -> str:
    shown = io.StringIO()
    with redirect_stdout(shown), redirect_stderr(io.StringIO()):
        assert main(["keys", "new", name, "--file", str(file)]) == 0
    return shown.getvalue().strip()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def shown(answer: httpx.Response) -> Any:
    """What an answer says of the one row: a label, the scores, or nothing."""
    (said,) = answer.json().get("probabilities", [None])
    return said


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*RUNBOOKS, HOW_TO / "lockdown.md"], ids=lambda page: page.stem)
def test_whoever_copies_a_command_from_a_page_is_understood(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At three in the morning nobody has time for a command that has changed. Here it gets as far as to the store."""
    monkeypatch.setenv("MLGUARD_STORE_URL", "memory://")
    commands = [command for command in commands_of(page) if command.startswith("lockdown ")]
    assert commands
    for command in commands:
        assert main(command.replace("…", "id.example").split()) == 3, command
        assert "memory://" in capsys.readouterr().err


def test_incident_leaked_key(service: Service, run: Run) -> None:
    """Its caller is blocked on every worker, the key and the tokens are revoked, and a new key works."""
    issuer = TokenIssuer(
        KEY,
        algorithm="HS256",
        issuer="https://id.example",
        audience="https://api.example",
        store=RedisStore(service.redis.url, timeout=30),
    )
    token = asyncio.run(issuer.access_token("alice"))
    service.statuses(200, "alice")
    service.statuses(200, path="/me", token=token)
    before = len(service.events("lockdown.set"))

    run("lockdown block principal alice --for 24h --reason leaked-key --by eve --issuer https://id.example")
    service.statuses(403, path="/me", token=token)
    service.statuses(200, "alice")  # who is named with an issuer is the one with tokens of it
    run("lockdown block principal alice --for 24h --reason leaked-key --by eve --revoke --issuer https://id.example")
    run("lockdown block principal alice --for 24h --reason leaked-key --by eve --revoke")
    service.on_every_worker(lambda answer: answer.status_code in {401, 403}, "alice")
    service.statuses(200, "bob")
    assert "principal any method: alice" in run("lockdown list")
    wait_until(lambda: len(service.events("lockdown.set")) == before + 3)
    told = service.events("lockdown.set")[-1]
    assert "by=eve" in told
    assert "why=leaked-key" in told

    old, service.keys["alice"] = service.keys["alice"], run("keys new alice")
    run("lockdown lift all --by eve")
    service.statuses(200, "alice")
    service.keys["thief"] = old
    service.statuses(401, "thief")
    service.statuses(401, path="/me", token=token)
    wait_until(lambda: len(service.events("lockdown.lifted")) == 2)


def test_incident_scraped_model(service: Service, run: Run) -> None:
    """Answers say the label alone on every worker, the suspect gets none, and afterwards all is as it was."""
    service.on_every_worker(lambda answer: shown(answer) == [0.2, 0.8], "bob")
    assert re.search("of 100000 left, [1-9][0-9]* spent", run("budget show predictions --caller bob"))
    run("lockdown label-only --for 2h --reason scraping")
    service.on_every_worker(lambda answer: shown(answer) == "versicolor", "bob")
    run("lockdown block principal bob --method api-key --for 2h --reason scraping")
    service.statuses(403, "bob")
    service.on_every_worker(lambda answer: shown(answer) == "versicolor", "alice")
    run("lockdown block address 127.0.0.0/8 --for 2h --reason scraping")
    service.statuses(403, "alice")
    service.statuses(200, path="/health")
    run("lockdown lift address 127.0.0.0/8")
    run("lockdown lift all")
    service.on_every_worker(lambda answer: shown(answer) == [0.2, 0.8], "bob")


def test_incident_tampered_model(service: Service, run: Run) -> None:
    """The route is shut, the version before is pinned, the promotion rolled back, and no altered file is served."""
    service.on_every_worker(lambda answer: shown(answer) == [0.2, 0.8], "bob")
    path = service.models.find("iris", 2).path
    good = path.read_bytes()
    path.write_bytes(good[:-5] + bytes([good[-5] ^ 1]) + good[-4:])
    folder, root = service.models.root.parent, service.models.root
    run("lockdown block route /predict --reason tampered-model")
    service.statuses(503, "bob")
    service.statuses(200, path="/health")
    run("lockdown pin iris 1 --reason tampered-model")
    served = "model=iris version=1"
    wait_until(lambda: sum(served in event for event in service.events("model.served")) == WORKERS)
    run("lockdown lift route /predict")
    service.on_every_worker(lambda answer: shown(answer) == [0.1, 0.9], "bob")

    run("lockdown pin iris 2 --reason mistake")  # the altered one
    wait_until(lambda: len(service.events("model.kept")) == WORKERS)
    service.on_every_worker(lambda answer: shown(answer) == [0.1, 0.9], "bob")

    rolled_back = run(
        f"model rollback {root} iris --verify-key {folder}/model-key.pub --signing-key {folder}/model-key.pem"
    )
    assert rolled_back.startswith("rolled back to iris 1")
    run("lockdown lift pin iris")
    wait_until(lambda: sum(served in event for event in service.events("model.served")) == 2 * WORKERS)
    service.on_every_worker(lambda answer: shown(answer) == [0.1, 0.9], "bob")
    path.write_bytes(good)
    assert run("lockdown list") == "Nothing is locked down."


def test_incident_store_lost(service: Service, run: Run) -> None:
    """Nothing opens while it is away, and what was blocked is blocked still when it comes back with nothing in it."""
    run("lockdown block principal alice --reason before")
    service.statuses(403, "alice")
    service.redis.kill()
    service.statuses(403, "alice")
    service.statuses(503, "bob")
    service.statuses(200, path="/health")
    service.redis.start()
    service.statuses(200, "bob")
    service.statuses(403, "alice")
    wait_until(lambda: "principal any method: alice" in run("lockdown list"))
    fresh = Lockdown(store=RedisStore(service.redis.url, timeout=30))
    assert [str(block) for block in asyncio.run(fresh.blocks())] == ["principal any method: alice"]
    assert service.events("lockdown.restored")
    run("lockdown lift all")
    service.statuses(200, "alice")
