# make demo | make test: all a newcomer needs. Both set .venv up on their first run.

VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
PIP := $(PYTHON) -m pip --disable-pip-version-check --quiet
SOURCES := cdgen kernels train bench tests
NATIVE := $(wildcard kernels/cpu/*.cpp kernels/cpu/*.h)

.PHONY: demo test check format types bench wheel

demo: $(READY)
	$(PYTHON) -m cdgen.demo out/demo

test: $(READY)
	$(PYTHON) -m pytest -q

check: $(READY) types
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/clang-format --dry-run --Werror $(NATIVE)
	$(PYTHON) -m pytest -q tests/test_layering.py

# The checkout's folders as the package that the wheel makes of them, for a tool that follows files.
types: $(READY)
	rm -rf build/types && mkdir -p build/types/cdgen
	ln -s $(CURDIR)/cdgen/*.py $(CURDIR)/cdgen/py.typed build/types/cdgen/
	ln -s $(CURDIR)/kernels $(CURDIR)/train $(CURDIR)/bench build/types/cdgen/
	cd build/types && $(CURDIR)/$(VENV)/bin/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p cdgen

format: $(READY)
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)
	$(VENV)/bin/clang-format -i $(NATIVE)

# Every figure of the README; run it on a quiet machine.
bench: $(READY)
	$(PYTHON) -m cdgen.bench.bench_sample_contrastive --out bench/results/cpu-sample-contrastive.json
	GOMP_SPINCOUNT=1000 $(PYTHON) -m cdgen.bench.bench_generate --out bench/results/cpu-generate.json
	$(PYTHON) -m cdgen.bench.bench_startup --out bench/results/cpu-startup.json

wheel: $(READY)
	$(PIP) wheel --no-deps --no-build-isolation -w dist .

# Set-up: once, and again when the pins, the build or the C++ change. The build tools come from the
# same pins, so nothing is built against versions that nobody tried.
$(READY): constraints.txt pyproject.toml CMakeLists.txt $(NATIVE)
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PIP) install -c constraints.txt scikit-build-core nanobind cmake ninja
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@
