# demo and test are all that a new machine needs; both make .venv first.
PY := .venv/bin/python
ARGS ?=
JOBS ?= 3
OLDEST ?=
# Compiled once and not at each start, also where the machine is set not to.
export PYTHONDONTWRITEBYTECODE :=
COMPILED := $(wildcard src/secretproxy/wire/*.py src/secretproxy/session/*.py src/secretproxy/detect/*.py) src/secretproxy/audit/chain.py src/secretproxy/audit/durable.py src/secretproxy/audit/groups.py src/secretproxy/audit/journal.py src/secretproxy/audit/masking.py src/secretproxy/audit/rows.py src/secretproxy/audit/waiting.py src/secretproxy/ops/value.py $(wildcard src/secretproxy/proxy/client/*.py src/secretproxy/*/*.c src/secretproxy/*/*.h src/secretproxy/proxy/transport/*.c)

.PHONY: demo test evasions soak tls-soak crashes inject bounds fuzz suites lint bench bench-review bench-console bench-micro keys-full test-matrix test-oldest example clean

demo: .venv/.stamp ## The main job on a private PostgreSQL (ARGS=--once leaves after the tour)
	@$(PY) -m secretproxy demo $(ARGS)

test: .venv/.stamp ## All tests, JOBS of them at once; what differs on the oldest Python that is promised, on that too
	@scripts/oldest.sh
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

evasions: .venv/.stamp ## The battery of evasions, as a table by mechanism
	$(PY) -m pytest -q tests/security/test_evasions.py $(ARGS)

soak: .venv/.stamp ## Five minutes of kills under load
	SOAK_SECONDS=300 $(PY) -m pytest -q tests/faults/test_kills.py --timeout 600 $(ARGS)

tls-soak: .venv/.stamp ## A thousand logins and 300 MB each way in TLS on both sides
	TLS_CONNECTS=1000 TLS_BULK_ROWS=300000 $(PY) -m pytest -q -n0 tests/clients/test_tls_backend.py --timeout 900 $(ARGS)

bounds: .venv/.stamp ## Rows of 500 MB, COPY of 10 GB, 2,000 sessions, 10,000 connects, a soak of ten minutes
	BOUNDS_FULL=1 BOUNDS_SCALE=100 $(PY) -m pytest -q -n0 -s tests/bounds --timeout 3600 $(ARGS)

fuzz: .venv/.stamp ## Framing and session under hypothesis and atheris, FUZZ_SECONDS=300 unless set
	FUZZ_SECONDS=$${FUZZ_SECONDS:-300} $(PY) -m pytest -q -s tests/fuzz --timeout 3600 $(ARGS)

inject: .venv/.stamp ## Every error at every await of the proxy, a quarter of an hour
	INJECT=all $(PY) -m pytest -q -s tests/faults/test_injected.py --timeout 3600 $(ARGS)

crashes: .venv/.stamp ## Two hundred kills of a journal while it writes log, spool and checkpoints
	TEST_CRASHES=200 $(PY) -m pytest -q -n 0 --timeout 1800 tests/audit/test_crash.py $(ARGS)

suites: .venv/.stamp ## Test suites of drivers that others wrote, directly and through the proxy (ARGS="asyncpg psycopg2 ...")
	$(PY) scripts/suites.py $(ARGS)

lint: .venv/.stamp ## ruff, mypy --strict, import contracts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PY) scripts/config_example.py --check

bench: .venv/.stamp ## The table of benchmarks/RESULTS.md (ARGS="--only growth": how cost grows, about ten minutes)
	$(PY) benchmarks/run.py $(ARGS)

bench-review: .venv/.stamp ## Every command of audit and every view on a month of 5,000,000 rows, about half an hour (ARGS="--only stats")
	$(PY) benchmarks/review.py $(ARGS)

bench-console: .venv/.stamp ## The console's pages on a month of 5,000,000 rows, and its memory under open live pages (ARGS="--only findings")
	$(PY) benchmarks/console.py $(ARGS)

bench-micro: .venv/.stamp ## A call's cost in the pure layers (ARGS="--against DIR" measures another checkout in turns)
	$(PY) benchmarks/micro.py $(ARGS)

keys-full: .venv/.stamp ## keys reencrypt over 100,000 values, killed ten times, with writers
	SECRETPROXY_TEST_KEY_ROWS=100000 $(PY) -m pytest -q tests/integration/sql/test_keys.py -k killed --timeout 1200 $(ARGS)

test-matrix: .venv/.stamp ## The SQL tests on PostgreSQL 14 to 18
	$(PY) scripts/test_matrix.py $(ARGS)

test-oldest: .venv/.stamp ## What depends on Python's version, on the oldest one that is promised (OLDEST=python3.11)
	@OLDEST=$(OLDEST) scripts/oldest.sh --needed
	$(PY) -m pytest -q -n0 -rs tests/integration/test_socket_file.py tests/integration/test_oldest.py $(ARGS)

example: .venv/.stamp ## Writes config.example.toml and the tables of docs that the source says
	$(PY) scripts/config_example.py

clean: ## Everything that make made
	rm -rf .venv .oldest build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
	find src -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.stamp: requirements/dev.lock requirements/fuzz.lock requirements/browser.lock requirements/parquet.lock pyproject.toml setup.py scripts/bootstrap.sh $(COMPILED)
	@scripts/bootstrap.sh
