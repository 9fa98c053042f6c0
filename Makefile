# The words of the project. Each sets up .venv first when it is missing or out of date; CI calls the same ones.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed

.PHONY: help demo test test-slow check bench docs peers clean

help:            ## list these words
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"limosa needs Python 3.11 or newer; {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	@echo "setting up .venv (torch first, then limosa and its tools) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)   ## forecast an embedded real series with the embedded model, write a table and a picture
	@mkdir -p out
	$(BIN)/python -m limosa.app.demo out

test: $(READY)   ## the default suite: no network, no GPU, about seven minutes on two cores
	$(BIN)/python -m pytest -m 'not slow'

test-slow: $(READY)  ## multi-process and long runs
	$(BIN)/python -m pytest -m slow

check: $(READY)  ## ruff, mypy --strict, import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## every benchmark, saved under docs/results/ (long); `make bench ONLY=zero_shot` for one
	@for name in $(or $(ONLY),zero_shot scale kernels streaming long_horizon side_table slow_links co2_quality large_batch precision detect adapt sherl perk classify events ask serve ray_batch operators covariates reading experts smolvlm); do $(BIN)/python benchmarks/$$name.py --save || exit 1; done
	$(BIN)/python benchmarks/report.py

docs: $(READY)   ## redraw the pictures of the docs and docs/results.md
	$(BIN)/python docs/draw.py
	$(BIN)/python docs/help.py
	$(BIN)/python benchmarks/report.py

peers: .venv-peers/.installed  ## the pinned environment of rival packages that benchmarks compare with

.venv-peers/.installed: benchmarks/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-peers/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	.venv-peers/bin/pip install --quiet --disable-pip-version-check --no-deps tsb-ad==1.5  # its pins are of 2023
	@touch $@

clean:           ## remove what the words above made
	rm -rf .venv .venv-peers out build dist
