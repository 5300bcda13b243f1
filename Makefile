# Two commands: `make demo` and `make test`. Both set up what they need in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The PyTorch that the comparisons run against; pinned because an open range draws in gigabytes of CUDA builds.
TORCH ?= torch==2.13.0
# One set of versions for everybody; `make CONSTRAINTS= …` takes the newest.
CONSTRAINTS ?= -c constraints.txt
INSTALL := $(BIN)/python -m pip install -q $(CONSTRAINTS)
DEMO ?= demo

# Where it is set every process compiles every module again, and tests start many.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all test-lowest lint docs docs-pictures gpu clean

demo: $(VENV)/.installed
	sh scripts/demo.sh $(BIN)/fdif $(DEMO)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 3 --dist worksteal -q

test-all: $(VENV)/.installed-all
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m "slow or not slow"
	XLA_FLAGS= $(BIN)/python -m pytest -n 2 --dist worksteal -q tests/shapes/test_fixtures.py tests/scenes/test_compiler.py

# The least versions that pyproject.toml allows, in an environment of their own: the four commands, files and formulas.
LOWEST ?= .venv-lowest
test-lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install -q -c tests/lowest.txt -e ".[all]" pytest pytest-timeout hypothesis beartype
	$(LOWEST)/bin/python -m pytest -q -m "slow or not slow" tests/test_core.py tests/io/test_volumes.py \
	  tests/scenes/test_recipe.py tests/viewing/test_viz.py

# The imports are those of the package as it is when installed, put together by links.
lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	rm -rf build/package && mkdir -p build/package/fdif_jax
	ln -s $(addprefix $(CURDIR)/,$(wildcard fdif_jax/*) shapes models scripts) build/package/fdif_jax
	cd build/package && $(abspath $(BIN))/lint-imports $(CURDIR)/pyproject.toml

# Everything that only an accelerator can tell, in 8 minutes; HALF=1 and HALF=2 are two calls of 4. Needs no network:
# the machine's own Python, and .wheels/ (scripts/gpu_wheels.sh) for what it lacks.
GPU ?= gpu
HALF ?= 0
gpu:
	PYTHON=$(PYTHON) sh scripts/gpu.sh --out $(GPU) --half $(HALF) --minutes $(if $(filter 0,$(HALF)),8,4)

# The site of docs/, in site/, with the gallery of all classes in it.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/fdif gallery --out site/gallery

docs-pictures: $(VENV)/.installed-test
	$(BIN)/python docs/make_gallery.py docs/gallery.png
	$(BIN)/python docs/make_worlds.py docs
	$(BIN)/python docs/make_growth.py docs/growth.png
	$(BIN)/python docs/make_tissue.py tests/data docs/tissue.png
	$(BIN)/python docs/make_algebra.py docs
	$(BIN)/python docs/make_tutorial.py docs/tutorial.md docs/tutorial.png
	$(BIN)/python docs/make_browse.py tests/data/hippocampus docs/browse.png

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e ".[pictures,surfaces,tensorboard]"
	touch $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e ".[all,docs]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python $(VENV)/.browser
	$(INSTALL) -e ".[test]" $(TORCH)
	touch $@ $(VENV)/.installed

# The pages are tested in Chromium. Where there is none and it cannot be installed, those tests are skipped.
$(VENV)/.browser: | $(VENV)/bin/python
	command -v chromium || command -v google-chrome || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >$@.log 2>&1 || \
	  echo "no Chromium: tests in a browser are skipped"
	touch $@

$(VENV)/.installed-all: pyproject.toml constraints.txt | $(VENV)/bin/python $(VENV)/.browser
	$(INSTALL) -e ".[test-all]" $(TORCH)
	touch $@ $(VENV)/.installed-test $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python $(VENV)/.browser
	$(INSTALL) -e ".[dev]" $(TORCH)
	touch $@ $(VENV)/.installed-test $(VENV)/.installed

clean:
	rm -rf $(VENV) $(LOWEST) $(DEMO) build site .cache *.egg-info
