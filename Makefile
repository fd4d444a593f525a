# make demo    a guarded model service, played through case by case
# make serve   the same service, kept running
# make test    everything that decides whether a change is good
# make bench   the numbers that README and docs quote
# make attacks what each guard does to real attacks: the tables and figures of the docs, in half an hour
# make fuzz    ten minutes of a coverage-guided fuzzer on every reader of bodies

PYTHON ?= python3.11
VENV := .venv
SECONDS_OF_FUZZ ?= 600
OLDEST := .venv-oldest
BIN := $(VENV)/bin
# What has nothing to do with FastAPI is tested once.
ALONE := audit_ alert_ webhook drift_reference feedback_ fingerprints histograms label_ quarantine_ query_evidence \
  query_reference report_
APART := $(addprefix --ignore=,$(addprefix tests/,privacy secrets commands test_attacks.py test_fuzz.py) \
  $(filter-out tests/artifacts/test_served_model.py,$(wildcard tests/artifacts/test_*.py)) \
  $(wildcard $(addsuffix *.py,$(addprefix tests/monitoring/test_,$(ALONE)))))
# So are pages that are about files and secrets, and a demo that goes wrong.
PAGES := audit-log encrypt-models key-files load-models model-store personal-data private-aggregates report \
  rights-of-people rotate-secrets secrets sign-models watermark-models
APART += $(foreach page,$(PAGES),--deselect='tests/test_docs.py::test_page_does_what_it_says[docs/how-to/$(page).md]') \
  $(addprefix --deselect=tests/test_demo.py::test_demo_,fails_on_a_service_without_guards \
  fails_when_an_answer_tells_of_the_inside fails_when_the_log_holds_a_secret says_why_a_service_does_not_start)
# Nothing of the caller's environment may change what is tested.
unexport PYTHONPATH MLGUARD_API_KEYS MLGUARD_API_KEYS_FILE MLGUARD_STORE_URL

.PHONY: demo serve test test-oldest test-newest lint examples bench bench-short attacks attacks-short fuzz lock clean

demo: $(VENV)/ready
	$(BIN)/python -m examples.demo

serve: $(VENV)/ready
	$(BIN)/python -m examples.demo --serve

test: lint $(VENV)/ready $(OLDEST)/ready
	$(BIN)/coverage erase
	$(MAKE) --no-print-directory --jobs=2 test-oldest test-newest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# At the same time, on two cores. This one says what it has to say when it is done.
test-oldest: $(OLDEST)/ready
	@said=$$($(OLDEST)/bin/coverage run --parallel-mode -m pytest -q $(APART) 2>&1); code=$$?; echo "$$said"; exit $$code

test-newest: $(VENV)/ready
	$(BIN)/coverage run --parallel-mode -m pytest -q

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

examples: $(VENV)/ready
	$(BIN)/python -m pytest -q tests/test_examples.py tests/test_demo.py

bench: $(VENV)/ready
	$(BIN)/python -m bench

bench-short: $(VENV)/ready
	$(BIN)/python -m bench --short

attacks: $(VENV)/ready
	$(BIN)/python -m bench.attacks

attacks-short: $(VENV)/ready
	$(BIN)/python -m bench.attacks --quick

# Both environments install exactly what the lock files name, by hash, and then mlguard itself without touching the rest.
# Python 3.11 comes with a pip that cannot check the hash of what two packages ask for, one of them with an extra.
$(VENV)/ready: requirements/newest.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/newest.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(OLDEST)/ready: requirements/oldest.txt pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv
	cd requirements && for set in "newest.in newest.txt" "oldest.in oldest.txt"; do set -- $$set; \
	  ../.venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --custom-compile-command "make lock" --output-file $$2 ../pyproject.toml $$1; done
	rm -r .venv-lock

# Beside the development dependencies: atheris has no wheels for every Python.
fuzz: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target .atheris atheris
	PYTHONPATH=.atheris $(BIN)/python -m bench.fuzz -max_total_time=$(SECONDS_OF_FUZZ) -rss_limit_mb=2048

clean:
	rm -rf $(VENV) $(OLDEST) .atheris .coverage .hypothesis .mypy_cache .ruff_cache
