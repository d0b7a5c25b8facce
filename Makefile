# make run    the main job: calls the reference agent and judges it; the report to look at is runs/telephone.html
# make test   everything CI runs: ruff, mypy, the tests
# make check  ruff and mypy only
# make prove  shows that every gate of plans/telephone.py can fail (about 20 minutes)
# make bench  the benchmarks of docs/benchmarks.md that are short (about 7 minutes); make bench-load  calls and requests
#             beside the peers (20 minutes); make bench-long  leaks, crashes, memory, builds compared, half an hour of calls (70 minutes)
# make clean-runs  20 runs of a sound agent
# make lock   the hashed requirements anew, after a change of dependencies in a pyproject.toml

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PEERS  := .venv-peers

.PHONY: run test check prove bench bench-load bench-long clean-runs lock clean

run: $(VENV)/.ready-run
	$(BIN)/busyhour run plans/telephone.py --html runs/telephone.html

test: check
	tools/browser.sh
	$(BIN)/pytest -n 4 --dist worksteal

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.ready-run
	$(BIN)/python benchmarks/measurement.py
	$(BIN)/python benchmarks/reference_agent.py
	$(BIN)/python benchmarks/media.py
	$(BIN)/python benchmarks/twins.py
	$(BIN)/python benchmarks/proxy.py
	$(BIN)/python benchmarks/recording.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/foresight.py

bench-load: $(VENV)/.ready-dev $(PEERS)/.ready
	$(BIN)/python benchmarks/calls.py --peers $(PEERS)/bin/python
	$(BIN)/python benchmarks/http_load.py --peers $(PEERS)/bin/python
	$(BIN)/python benchmarks/locust_overhead.py

bench-long: $(VENV)/.ready-dev
	$(BIN)/python benchmarks/probes.py
	$(BIN)/python benchmarks/own_memory.py
	$(BIN)/python benchmarks/crashes.py
	$(BIN)/python benchmarks/leaks.py
	$(BIN)/python benchmarks/comparing.py
	$(BIN)/python benchmarks/held_calls.py

clean-runs: $(VENV)/.ready-run
	$(BIN)/python benchmarks/clean_runs.py 20

prove: $(VENV)/.ready-run
	$(BIN)/busyhour prove plans/telephone.py

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "busyhour needs Python 3.11 or newer; run: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

LANE := hatch_build.py $(wildcard src/busyhour/fastlane/*.px*)

$(VENV)/.ready-run: $(BIN)/python requirements/run.txt $(LANE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . -e systems/voice_agent
	@$(BIN)/busyhour --version
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready-run requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	touch $@

$(PEERS)/.ready: benchmarks/peers_requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

lock: $(VENV)/.ready-dev
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		--no-annotate pyproject.toml systems/voice_agent/pyproject.toml requirements/build.in -o requirements/run.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		--no-annotate --extra dev pyproject.toml systems/voice_agent/pyproject.toml requirements/build.in -o requirements/dev.txt \
		--constraint requirements/run.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		--no-annotate benchmarks/peers_requirements.in -o benchmarks/peers_requirements.txt

clean:
	rm -rf $(VENV) $(PEERS) .mypy_cache .ruff_cache .pytest_cache .hypothesis
