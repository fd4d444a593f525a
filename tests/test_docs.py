"""The README and every page of the docs, done from top to bottom as a reader would do it.

A page is a sequence of fenced blocks, and each kind of block means one thing:

``python``                  is run. Blocks of one page share their names. What a ``print`` writes stands in a comment at
                            the end of its line, and must be what it writes.
``python title="main.py"``  is a file, written where the page's commands run.
``sh``                      is run by ``sh``, with what earlier blocks exported. ``uvicorn main:app &`` starts a real
                            server, ``kill $!`` stops it. ``pip`` and ``make`` lines are only read.
``http``, ``text``          are lines of what the last ``sh`` block wrote, in their order; ``…`` stands for anything.
``log``                     are lines that the server has logged since it was started, in the same way.
``json``                    is only parsed.
``html``                    is only read.

``localhost:8000`` is wherever the server of the page listens.
"""

import ast
import contextlib
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mlguard
from mlguard.client import HTTPSignature
from mlguard.compat.jose import jose_engine
from mlguard.compat.passlib import PasslibHashes
from mlguard.compat.slowapi import Limiter, principal_key
from mlguard.settings import Settings
from tests.servers import ROOT, Program, program, wait_until
from tests.test_errors import REFUSALS

DOCS = ROOT / "docs"
PAGES = [*(ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")), *sorted(DOCS.rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
KINDS = {"python", "sh", "http", "text", "log", "json", "html"}
BLOCK = re.compile(r'^```(\w*)(?: title="([\w.]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
ONLY_READ = ("pip ", "make ")
PLACE = "localhost:8000"


class Reader:
    """Does what a page says.

    Args:
        name: The page.
        folder: Where its commands run.
        environment: Sets a variable until the test ends.
    """

    def __init__(self, name: str, folder: Path, environment: Callable[[str, str], None]) -> None:
        self._name = name
        self._folder = folder
        self._setenv = environment
        self._module = ModuleType("a_page_of_the_docs")
        self._server: Program | None = None
        self._running = contextlib.ExitStack()
        self._place = PLACE
        self._output = ""

    def __enter__(self) -> "Reader":
        sys.modules[self._module.__name__] = self._module  # pydantic looks there for what annotations name
        return self

    def __exit__(self, *exception: object) -> None:
        self._running.close()
        del sys.modules[self._module.__name__]

    def do(self, kind: str, title: str, text: str, line: int) -> None:
        """One block, which begins below this line of the page."""
        if title:
            (self._folder / title).write_text(text, "utf-8")
        elif kind == "python":
            self._run_python(text, line)
        elif kind == "sh":
            self._output = ""
            for command in re.sub(r"\\\n\s*", " ", text).splitlines():
                self._run_command(command)
        elif kind in {"http", "text"}:
            assert_shows(text, self._output)
        elif kind == "log":
            assert self._server is not None
            log = self._server
            with contextlib.suppress(TimeoutError):  # what is missing is better told below
                wait_until(lambda: not missing(text, log.output))
            assert_shows(text, log.output)
        elif kind == "json":
            json.loads(text)

    def _run_python(self, text: str, line: int) -> None:
        source = "\n" * line + text.replace(PLACE, self._place)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, self._name, "exec", dont_inherit=True), self._module.__dict__)
        assert printed.getvalue().splitlines() == re.findall(r"^ *print\(.*\)  # (.*)$", text, re.MULTILINE)

    def _run_command(self, command: str) -> None:
        if command.startswith("uvicorn "):
            assert command == "uvicorn main:app &"
            self._serve()
        elif command == "kill $!":
            self._running.close()
        elif not command.startswith(ONLY_READ):
            for tool in ("curl", "openssl"):
                if re.search(rf"\b{tool} ", command) and shutil.which(tool) is None:
                    pytest.skip(f"{tool} is not installed")
            self._output += self._run_shell(command.replace(PLACE, self._place))

    def _serve(self) -> None:
        self._running.close()
        settings = {name: value for name, value in os.environ.items() if name.startswith("MLGUARD_")}
        command = ("-m", "uvicorn", "main:app", "--port", "0")
        self._server = self._running.enter_context(program(*command, environment=settings, cwd=self._folder))
        self._place = self._server.url().removeprefix("http://")

    def _run_shell(self, command: str) -> str:
        """Run one command. What it exported is there for the next ones, and for Python."""
        kept = self._folder / "environment.json"
        keep = f"\npython -c 'import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], \"w\"))' '{kept}'"
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["sh", "-eu", "-c", command + keep],
            cwd=self._folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        for name, value in json.loads(kept.read_text("utf-8")).items():
            if os.environ.get(name) != value and name not in {"PATH", "PWD", "OLDPWD", "SHLVL", "_"}:
                self._setenv(name, value)
        # curl ends a body with no line feed, so the next answer begins on its last line.
        return re.sub(r"(?<=.)(?=HTTP/1\.1 )", "\n", done.stdout.replace("\r", "")) + "\n"


def missing(shown: str, output: str) -> list[str]:
    """The lines of a page that are not in the output, or not in this order."""
    written = iter(output.splitlines())
    patterns = [(line, re.escape(line).replace("…", ".*")) for line in shown.splitlines() if line]
    return [line for line, pattern in patterns if not any(re.fullmatch(pattern, one) for one in written)]


def assert_shows(shown: str, output: str) -> None:
    assert not missing(shown, output), f"the page shows\n{shown}\nand this came:\n{output}"


def blocks(page: Path) -> Iterator[tuple[str, str, str, int]]:
    text = page.read_text("utf-8")
    for block in BLOCK.finditer(text):
        yield block[1], block[2] or "", block[3], text.count("\n", 0, block.start(3))


def missing_packages(page: Path) -> list[str]:
    """What the extras bring that the page has its reader install, and that is not here."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = re.findall(r"^pip install 'mlguard\[([\w,]+)\]'", page.read_text("utf-8"), re.MULTILINE)
    needed = [requirement for names in named for name in names.split(",") for requirement in extras[name]]
    return [name for name in (re.split(r"[\[><=]", one)[0] for one in needed) if not installed(name)]


def installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_page_does_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every snippet and command of a page runs, from top to bottom, and gives what the page shows."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)  # some write where they are
    if lacking := missing_packages(page):
        pytest.skip(f"not installed: {', '.join(lacking)}")
    with Reader(page.name, tmp_path, monkeypatch.setenv) as reader:
        for block in blocks(page):
            reader.do(*block)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_blocks_are_of_a_known_kind(page: Path) -> None:
    """No fence is indented, unclosed or of a kind that the tests would pass over; files are Python."""
    assert "```" not in prose(page)
    for kind, title, _, line in blocks(page):
        assert kind in KINDS, f"line {line}"
        assert not title or (kind == "python" and title.endswith(".py")), f"line {line}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_server_has_time_to_start(page: Path) -> None:
    """Who pastes a whole block does not call a server that is still starting: it is started at the end of one."""
    for kind, _, text, line in blocks(page):
        assert kind != "sh" or not text.partition("uvicorn main:app &\n")[2], f"line {line}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_server_is_stopped_before_the_next(page: Path) -> None:
    """Two on one port do not start, and the reader would go on asking the first one."""
    between = page.read_text("utf-8").split("uvicorn main:app &")[1:-1]
    assert all("kill $!" in text for text in between)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link between pages leads to a file that is there, and to a heading in it."""
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    """What headings are called in links, as GitHub has it."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_linked_from_the_index() -> None:
    """The index of the docs leads to every page."""
    index = DOCS / "index.md"
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)#]+)", prose(index))}
    assert {page for page in PAGES if page.is_relative_to(DOCS)} <= linked | {index}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_page_prints_a_secret(page: Path) -> None:
    """Nothing on a page could be copied and used as a key: every secret is made by the reader."""
    words = re.findall(r"[\w+=-]{22,}", page.read_text("utf-8"))
    mixed = [word for word in words if re.search("[A-Z]", word) and re.search("[0-9]", word)]
    assert not mixed
    assert not [word for word in words if re.fullmatch("[0-9a-f]+", word)]


# The reference says what the code says --------------------------------------------------------------------------------

REFERENCE = DOCS / "reference"


def section(page: Path, heading: str) -> str:
    parts = page.read_text("utf-8").split("\n## ")
    return next(part for part in parts if part.startswith(f"`{heading}`\n"))


def rows(table: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def spelt(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "required"
    return f"`{getattr(default, '__module__', '')}.{default.__name__}`" if callable(default) else f"`{default!r}`"


DOCUMENTED: dict[str, Callable[..., Any]] = {
    "APIKeyAuth": mlguard.APIKeyAuth,
    "APIKey.generate": mlguard.APIKey.generate,
    "APIKeys.from_env": mlguard.APIKeys.from_env,
    "APIKeys.from_file": mlguard.APIKeys.from_file,
    "APIKeys.from_secret": mlguard.APIKeys.from_secret,
    "JWTAuth": mlguard.JWTAuth,
    "JWTAuth.from_jwks": mlguard.JWTAuth.from_jwks,
    "JWTAuth.from_oidc": mlguard.JWTAuth.from_oidc,
    "AnyAuth": mlguard.AnyAuth,
    "Revocations": mlguard.Revocations,
    "TokenIssuer": mlguard.TokenIssuer,
    "token_router": mlguard.token_router,
    "User": mlguard.User,
    "Passwords": mlguard.Passwords,
    "SignatureAuth": mlguard.SignatureAuth,
    "HTTPSignature": HTTPSignature,
    "sign_request": mlguard.sign_request,
    "verify_signature": mlguard.verify_signature,
    "RateLimit": mlguard.RateLimit,
    "QueryBudget": mlguard.QueryBudget,
    "ConcurrencyLimit": mlguard.ConcurrencyLimit,
    "ProofOfWork": mlguard.ProofOfWork,
    "ClientAddress": mlguard.ClientAddress,
    "AllowAddresses": mlguard.AllowAddresses,
    "DenyAddresses": mlguard.DenyAddresses,
    "Features": mlguard.Features,
    "Features.from_model": mlguard.Features.from_model,
    "Features.from_data": mlguard.Features.from_data,
    "FeatureVector": mlguard.FeatureVector,
    "FeatureMatrix": mlguard.FeatureMatrix,
    "ImageInput": mlguard.ImageInput,
    "Text": mlguard.Text,
    "BitDepth": mlguard.BitDepth,
    "MedianSmoothing": mlguard.MedianSmoothing,
    "PromptTemplate": mlguard.PromptTemplate,
    "PromptScreen": mlguard.PromptScreen,
    "PromptClassifier": mlguard.PromptClassifier,
    "FeedbackGuard": mlguard.FeedbackGuard,
    "FeedbackQuarantine": mlguard.FeedbackQuarantine,
    "truncate_output": mlguard.truncate_output,
    "OutputPolicy": mlguard.OutputPolicy,
    "OpenInferenceAnswer": mlguard.OpenInferenceAnswer,
    "repeat_cache": mlguard.repeat_cache,
    "add_noise": mlguard.add_noise,
    "DPNoise": mlguard.DPNoise,
    "EpsilonLedger": mlguard.EpsilonLedger,
    "encrypt_model": mlguard.encrypt_model,
    "decrypt_model": mlguard.decrypt_model,
    "decrypted_model": mlguard.decrypted_model,
    "read_encrypted_model": mlguard.read_encrypted_model,
    "rewrap_model": mlguard.rewrap_model,
    "read_fernet_model": mlguard.read_fernet_model,
    "Rotating": mlguard.Rotating,
    "QueryMonitor": mlguard.QueryMonitor,
    "QueryMonitor.calibrate": mlguard.QueryMonitor.calibrate,
    "PrivateAggregates": mlguard.PrivateAggregates,
    "SubjectKeys": mlguard.SubjectKeys,
    "export_subject": mlguard.export_subject,
    "erase_subject": mlguard.erase_subject,
    "purge_older_than": mlguard.purge_older_than,
    "ModelStore": mlguard.ModelStore,
    "ServedModel": mlguard.ServedModel,
    "Lockdown": mlguard.Lockdown,
    "Watermark": mlguard.Watermark,
    "Watermark.generate": mlguard.Watermark.generate,
    "SuspectService": mlguard.SuspectService,
    "Alerts": mlguard.Alerts,
    "Webhook": mlguard.Webhook,
    "DriftMonitor": mlguard.DriftMonitor,
    "DriftMonitor.learn": mlguard.DriftMonitor.learn,
    "find_pii": mlguard.find_pii,
    "mask_pii": mlguard.mask_pii,
    "PIISearch": mlguard.PIISearch,
    "Redactor": mlguard.Redactor,
    "KeepLast": mlguard.KeepLast,
    "PseudonymMask": mlguard.PseudonymMask,
    "Pseudonymiser": mlguard.Pseudonymiser,
    "ReversibleTokens": mlguard.ReversibleTokens,
    "PresidioFinder": mlguard.PresidioFinder,
    "AuditLog": mlguard.AuditLog,
    "AuditHeads": mlguard.AuditHeads,
    "verify_audit_log": mlguard.verify_audit_log,
    "audit_report": mlguard.audit_report,
    "harden": mlguard.harden,
    "install_metrics": mlguard.install_metrics,
    "OpenTelemetryMetrics": mlguard.OpenTelemetryMetrics,
    "PrometheusMetrics": mlguard.PrometheusMetrics,
    "MemoryStore": mlguard.MemoryStore,
    "verify_model": mlguard.verify_model,
    "sign_model": mlguard.sign_model,
    "secret_source": mlguard.secret_source,
    "DirectorySecrets": mlguard.DirectorySecrets,
    "AWSSecrets": mlguard.AWSSecrets,
    "AzureSecrets": mlguard.AzureSecrets,
    "GoogleSecrets": mlguard.GoogleSecrets,
    "VaultSecrets": mlguard.VaultSecrets,
    "load_model": mlguard.load_model,
    "inspect_model": mlguard.inspect_model,
    "principal_key": principal_key,
    "Limiter": Limiter,
    "PasslibHashes": PasslibHashes,
    "jose_engine": jose_engine,
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_reference_lists_every_argument_with_its_default(name: str) -> None:
    """The table of a guard has its arguments, in their order, with their defaults."""
    parameters = inspect.signature(DOCUMENTED[name]).parameters.values()
    several = inspect.Parameter.VAR_POSITIONAL
    arguments = [(f"`{'*' * (one.kind is several)}{one.name}`", spelt(one.default)) for one in parameters]
    (page,) = [page for page in REFERENCE.glob("*.md") if f"\n## `{name}`\n" in page.read_text("utf-8")]
    table = [(row[0], row[1]) for row in rows(section(page, name))]
    assert table == arguments


def _parameters(method: Any) -> list[str]:
    """The names of a method's parameters, without self."""
    parameters = [*inspect.signature(method).parameters.values()][1:]
    return [f"*{p.name}" if p.kind is p.VAR_POSITIONAL else p.name for p in parameters]


def test_reference_has_the_members_of_a_store() -> None:
    """Whoever writes a store finds the methods with their arguments."""
    table = [row[0] for row in rows(section(REFERENCE / "guards.md", "Store"))]
    methods = [(name, member) for name, member in vars(mlguard.Store).items() if inspect.iscoroutinefunction(member)]
    calls = [f"`async {name}({', '.join(_parameters(member))})`" for name, member in methods]
    assert table == [*(f"`{name}`" for name in inspect.get_annotations(mlguard.Store)), *calls]


def test_reference_names_everything_public() -> None:
    """Every public name is somewhere in the reference."""
    text = "".join(page.read_text("utf-8") for page in REFERENCE.glob("*.md"))
    assert not [name for name in mlguard.__all__ if f"`{name}" not in text]


def test_changelog_names_everything_public() -> None:
    """Every public name is in the changelog, and every extra."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert not [name for name in [*mlguard.__all__, *extras] if not re.search(rf"`{name}\b", text)]


def test_reference_has_every_problem() -> None:
    """Every refusal is in the table of problems with its type, status, title and error."""
    text = (REFERENCE / "problems.md").read_text("utf-8")
    table = {(row[0], row[1], row[2], row[3]) for row in rows(text.partition("## Members")[0])}
    assert table == {(f"`{r.rule}`", str(r.status), r.title, f"`{r.__name__}`") for r in REFUSALS}


def test_reference_has_every_input_rule() -> None:
    """The rules that an input can break are those in the docstring of Features."""
    text = (REFERENCE / "problems.md").read_text("utf-8").partition("## What `broken` says")[2]
    told = re.findall(r"^``(\w+)``  ", inspect.getdoc(mlguard.Features) or "", re.MULTILINE)
    assert [row[0].strip("`") for row in rows(text)] == told


@pytest.mark.parametrize(
    ("heading", "guard"),
    [
        ("Rules of images", mlguard.ImageInput),
        ("Rules of texts", mlguard.Text),
        ("Rules of labels", mlguard.FeedbackGuard),
    ],
)
def test_reference_has_every_rule_of_images_and_texts(heading: str, guard: type) -> None:
    """The rules that they can break are those in the docstrings."""
    text = (REFERENCE / "problems.md").read_text("utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    told = re.findall(r"^``(\w+)``  ", inspect.getdoc(guard) or "", re.MULTILINE)
    assert [row[0].strip("`") for row in rows(text)] == told


def test_reference_has_every_setting() -> None:
    """Every variable that mlguard reads has its section."""
    text = (REFERENCE / "settings.md").read_text("utf-8")
    names = {f"MLGUARD_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"^## `(\w+)`", text, re.MULTILINE)) == names


def test_snippets_use_public_names_only() -> None:
    """A snippet imports from ``mlguard`` itself, from the module for callers, or from an adapter."""
    for page in PAGES:
        for kind, _, text, _ in blocks(page):
            for node in ast.walk(ast.parse(text)) if kind == "python" else ():
                module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
                if module.startswith("mlguard"):
                    assert module in {"mlguard", "mlguard.client"} or module.startswith("mlguard.compat.")
