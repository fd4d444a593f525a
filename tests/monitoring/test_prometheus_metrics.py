"""Prometheus reads the metrics, of all workers, and strangers do not."""

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Security
from hypothesis import given
from hypothesis import strategies as st

from mlguard import (
    AllowAddresses,
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConfigurationError,
    DenyAddresses,
    Measurement,
    MemoryStore,
    PrometheusMetrics,
    RateLimit,
    harden,
    install_metrics,
)
from tests.asgi import call
from tests.monitoring.test_watched import Source
from tests.servers import program, serving, wait_until

pytest.importorskip("prometheus_client")

import prometheus_client
from prometheus_client.parser import text_string_to_metric_families

KEY, SECRET = APIKey.generate("prometheus", scopes={"metrics"})
OTHER, OTHER_SECRET = APIKey.generate("alice", scopes={"predict"})
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Samples:
    """Every sample of a page, as Prometheus' own parser reads it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def service(prometheus: PrometheusMetrics | None = None, **options: Any) -> FastAPI:
    app = FastAPI()
    harden(app)
    operator = APIKeyAuth(APIKeys([KEY, OTHER]))
    prometheus = PrometheusMetrics() if prometheus is None else prometheus
    install_metrics(app, to=prometheus, **{"timed_per_second": 1e6, **options})
    app.include_router(prometheus.router(dependencies=[Security(operator, scopes=["metrics"])]))

    @app.get("/x/{name}", dependencies=[Depends(RateLimit("2/minute", store=MemoryStore(), name="steady"))])
    async def endpoint(name: str) -> None:
        """Nothing."""

    return app


def test_the_real_parser_reads_the_page_over_a_real_socket() -> None:
    """A scrape has what was decided, taken and left, and what is watched, in Prometheus' text format."""
    watched = Source(
        Measurement("mlguard_audit_queue", 12), Measurement("mlguard_audit_dropped", 3, {"why": "full"}, "counter")
    )
    with serving(service(watch=[watched])) as url, httpx.Client(base_url=url) as client:
        assert [client.get(f"/x/{number}").status_code for number in range(3)] == [200, 200, 429]
        answer = client.get("/metrics", headers={"x-api-key": SECRET})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    samples = parsed(answer.text)

    def decided(outcome: str, rule: str) -> float:
        labels = {"guard": "RateLimit", "outcome": outcome, "route": "/x/{name}", "rule": rule}
        return samples["mlguard_guard_decisions_total", tuple(labels.items())]

    assert (decided("admitted", ""), decided("refused", "rate-limited")) == (2, 1)
    assert samples["mlguard_guard_duration_seconds_count", (("guard", "RateLimit"),)] == 3
    limit = (("guard", "RateLimit"), ("limit", "steady"))
    assert samples["mlguard_limit_left_ratio_sum", limit] == 0.5
    assert samples["mlguard_limit_left_ratio_bucket", (("guard", "RateLimit"), ("le", "0.0"), ("limit", "steady"))] == 2
    assert samples["mlguard_audit_queue", ()] == 12
    assert samples["mlguard_audit_dropped_total", (("why", "full"),)] == 3


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 401), ({"x-api-key": "wrong"}, 401), ({"x-api-key": OTHER_SECRET}, 403)]
)
def test_strangers_read_nothing(headers: dict[str, str], status: int) -> None:
    """Without a key, or without its scope, the page is refused, and says nothing of what is measured."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    answer = call(service(), "/metrics", method="GET", headers=raw)
    assert answer.status == status
    assert b"mlguard_" not in answer.body


@pytest.mark.parametrize("wrong", [[], (), [None], [APIKeyAuth(APIKeys([KEY]))], ["metrics"], [Depends()]])
def test_who_may_read_must_be_said(wrong: Any) -> None:
    """A router for nobody in particular cannot be made."""
    with pytest.raises(ConfigurationError, match="says who may read"):
        PrometheusMetrics().router(dependencies=wrong)


def test_a_limit_alone_lets_nobody_read() -> None:
    """Guards of which none tells who is asking are an error at once; a limit of callers who are known is none."""
    operator = APIKeyAuth(APIKeys([KEY]))
    limit = RateLimit("60/minute", store=MemoryStore(), name="scrapes")
    for strangers in ([Depends(limit)], [Depends(DenyAddresses(["192.0.2.0/24"]))]):
        with pytest.raises(ConfigurationError, match="none of these guards tells who is asking"):
            PrometheusMetrics().router(dependencies=strangers)
    by_operator = RateLimit("60/minute", by=operator, store=MemoryStore(), name="of-operators")
    for enough in ([Depends(by_operator)], [Depends(limit), Depends(operator)], [Depends(limit), Depends(lambda: 1)]):
        assert PrometheusMetrics().router(dependencies=enough).routes


@pytest.mark.parametrize("wrong", ["metrics", "", "/{path}", None])
def test_the_page_has_one_path(wrong: Any) -> None:
    """A path that is none is an error at once."""
    with pytest.raises(ConfigurationError, match="path"):
        PrometheusMetrics().router(dependencies=[Depends(lambda: None)], path=wrong)


def test_a_network_can_be_let_in() -> None:
    """An address list guards the page too, on a path of the app's choice."""
    app = FastAPI()
    prometheus = PrometheusMetrics()
    install_metrics(app, to=prometheus)
    network = AllowAddresses(["10.0.0.0/8"])
    app.include_router(prometheus.router(dependencies=[Depends(network)], path="/internal/metrics"))
    assert call(app, "/internal/metrics", method="GET", client=("10.1.2.3", 1)).status == 200
    assert call(app, "/internal/metrics", method="GET", client=("203.0.113.1", 1)).status == 403
    assert "/internal/metrics" not in app.openapi()["paths"]


def test_one_name_with_several_labels_is_one_family() -> None:
    """Told of once, with a line for each."""
    sources = [Source(Measurement("mlguard_x", value, {"what": what})) for what, value in (("a", 1), ("b", 2))]
    app = service(prometheus := PrometheusMetrics(), watch=sources)
    call(app, "/x/1", method="GET")
    page = prometheus.page().decode()
    assert page.count("# TYPE mlguard_x gauge") == 1
    assert {labels: value for (name, labels), value in parsed(page).items() if name == "mlguard_x"} == {
        (("what", "a"),): 1,
        (("what", "b"),): 2,
    }


def test_another_registry_is_shown_too() -> None:
    """What an app measures already is on the same page, and mlguard's is on the page that the app has already."""
    registry = prometheus_client.CollectorRegistry(auto_describe=True)
    prometheus_client.Counter("own_things", "The app's.", registry=registry).inc()
    app = service(PrometheusMetrics(registry=registry), watch=[Source(Measurement("mlguard_x", 5))])
    call(app, "/x/1", method="GET")
    page = prometheus_client.generate_latest(registry).decode()
    assert parsed(page)["own_things_total", ()] == 1
    assert parsed(page)["mlguard_x", ()] == 5
    with pytest.raises(ConfigurationError, match="use one PrometheusMetrics"):
        PrometheusMetrics(registry=registry)


@pytest.mark.parametrize("wrong", ["registry", prometheus_client.CollectorRegistry])
def test_what_is_no_registry_is_refused(wrong: Any) -> None:
    """Something else in its place is an error at once."""
    with pytest.raises(ConfigurationError, match="CollectorRegistry"):
        PrometheusMetrics(registry=wrong)


def test_the_extra_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without prometheus-client the error says what to install."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mlguard\[prometheus\]'"):
        PrometheusMetrics()


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5, unique=True), st.text(max_size=120))
def test_hostile_labels_make_no_lines(values: list[str], rule: str) -> None:
    """Whatever stands in a label, the parser reads as many samples as there are series, with one line each."""
    prometheus = PrometheusMetrics()
    from mlguard.monitoring._judged import Judged
    from mlguard.monitoring._watched import Watched

    sources = [Source(Measurement("mlguard_x", number, {"what": value})) for number, value in enumerate(values)]
    prometheus.show(Watched(sources).read())
    judged = Judged([prometheus], 1)
    judged._decisions.of((rule, rule, rule, rule))()
    samples = parsed(prometheus.page().decode())
    assert {name for name, _ in samples} == {"mlguard_guard_decisions_total", "mlguard_x"}
    assert sum(name == "mlguard_guard_decisions_total" for name, _ in samples) == 1


def test_a_directory_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PROMETHEUS_MULTIPROC_DIR must be a directory, and be set before the start."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "missing"))
    with pytest.raises(ConfigurationError, match="is no directory"):
        PrometheusMetrics()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with pytest.raises(ConfigurationError, match="set it before the start"):
        PrometheusMetrics()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def total(samples: Samples, name: str) -> float:
    return sum(value for (sample, _), value in samples.items() if sample == name)


def of_workers(samples: Samples, gauge: str = "mlguard_test_queue") -> dict[int, float]:
    """The gauge of each worker, by its process id."""
    return {int(dict(labels)["pid"]): value for (name, labels), value in samples.items() if name == gauge}


def test_all_workers_are_on_one_page(tmp_path: Path) -> None:
    """Whichever worker answers a scrape, counters are of all of them, and gauges of those that live."""
    directory = tmp_path / "prometheus"
    directory.mkdir()
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(directory), "MLGUARD_API_KEYS": f"prometheus={SECRET};metrics"}
    port = str(free_port())
    arguments = ("-m", "uvicorn", "--workers", "2", "--port", port, "tests.service_of_metrics:app")
    with program(*arguments, environment=environment) as running:
        wait_until(lambda: running.output.count("Application startup complete") == 2)
        url = f"http://127.0.0.1:{port}"

        def scrape() -> Samples:
            answer = httpx.get(f"{url}/metrics", headers={"x-api-key": SECRET})
            assert answer.status_code == 200
            return parsed(answer.text)

        asked: list[int] = []
        wait_until(lambda: asked.append(httpx.get(f"{url}/x").json()) or len(set(asked)) == 2)  # type: ignore[func-returns-value]  # both have answered
        counted: Samples = {}

        def have_all() -> bool:
            counted.update(scrape())
            return total(counted, "mlguard_test_came_total") == len(asked) and len(of_workers(counted)) == 2

        wait_until(have_all)
        limited = [
            value
            for (name, labels), value in counted.items()
            if name == "mlguard_guard_decisions_total" and dict(labels)["guard"] == "RateLimit"
        ]
        assert limited == [len(asked)]
        assert counted["mlguard_guard_duration_seconds_count", (("guard", "RateLimit"),)] == len(asked)
        assert of_workers(counted) == {pid: pid for pid in set(asked)}
        killed = asked[-1]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: "died" in running.output)
        wait_until(lambda: killed not in of_workers(scrape()))
        assert total(scrape(), "mlguard_test_came_total") >= len(asked)  # what a dead worker has counted stays counted


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory of workers, as if it had been named before this process began."""
    from prometheus_client.values import MultiProcessValue

    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr("prometheus_client.values.ValueClass", MultiProcessValue())  # type: ignore[no-untyped-call]
    return tmp_path


def test_a_counter_that_begins_anew_is_added_up(directory: Path) -> None:
    """What counts anew in its process goes on in Prometheus, where it only grows; a gauge is as it is last."""
    prometheus = PrometheusMetrics()
    for value in (5, 7, 2):
        labels = {"what": "x"}
        prometheus.show([Measurement("mlguard_x", value, labels, "counter"), Measurement("mlguard_y", value, labels)])
        prometheus.show([Measurement("mlguard_x", value, labels, "counter")])
    samples = parsed(prometheus.page().decode())
    assert samples["mlguard_x_total", (("what", "x"),)] == 9
    assert samples["mlguard_y", (("pid", str(os.getpid())), ("what", "x"))] == 2


@pytest.mark.parametrize("pid", ["9999999999", "4194305"])  # more than any system has
def test_gauges_of_the_dead_are_not_shown(directory: Path, pid: str) -> None:
    """A worker that has ended leaves its counters behind, and no queue that nobody is in."""
    prometheus = PrometheusMetrics()
    prometheus.show([Measurement("mlguard_x", 5, {}, "counter"), Measurement("mlguard_y", 5)])
    for kind in ("counter", "gauge_liveall"):
        own = directory / f"{kind}_{os.getpid()}.db"
        (directory / f"{kind}_{pid}.db").write_bytes(own.read_bytes())
    (directory / "gauge_liveall_x.db.bak").touch()
    samples = parsed(prometheus.page().decode())
    assert samples["mlguard_x_total", ()] == 10
    assert {name: labels for name, labels in samples if name == "mlguard_y"} == {
        "mlguard_y": (("pid", str(os.getpid())),)
    }


def test_a_worker_of_another_user_lives(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may not be asked is there; one that somebody else has found dead is no error."""
    prometheus = PrometheusMetrics()
    prometheus.show([Measurement("mlguard_y", 5)])
    own = directory / f"gauge_liveall_{os.getpid()}.db"
    others = {7: directory / "gauge_liveall_7.db", 8: directory / "gauge_liveall_8.db"}
    for other in others.values():
        other.write_bytes(own.read_bytes())

    def kill(pid: int, number: int) -> None:
        assert number == 0  # which only asks
        if pid == 7:
            raise PermissionError
        if pid == 8:
            others[8].unlink()
            raise ProcessLookupError

    monkeypatch.setattr("os.kill", kill)
    assert set(of_workers(parsed(prometheus.page().decode()), "mlguard_y")) == {7, os.getpid()}
