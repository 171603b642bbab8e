# make demo | make test: all a newcomer needs. Both set .venv up on their first run.

VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
PIP := $(PYTHON) -m pip --disable-pip-version-check --quiet
SOURCES := cdgen kernels train eval bench tests
NATIVE := $(wildcard kernels/cpu/*.cpp kernels/cpu/*.h)

# With a GPU the kernels need no build: where no .venv was set up, the machine's own Python takes the
# checkout as it is.
ifeq ($(wildcard $(READY)),)
GPU_PYTHON := python3
test-gpu bench-gpu bench-gpu-generate bench-gpu-eval: export PYTHONPATH := $(CURDIR)/build/package
else
GPU_PYTHON := $(PYTHON)
endif
NEEDS_GPU = @$(GPU_PYTHON) -c "import sys, torch; torch.cuda.is_available() or \
	sys.exit('make $@: needs a CUDA device; there is none here')"
GPU_TESTS := $(GPU_PYTHON) -m pytest -q -o addopts="--import-mode=importlib --strict-markers"
SANITIZED := tests/kernels/gpu -k "sizes_change_no_bit or whole_numbers or any_distance_apart or \
	every_length or neighbours_and_room or norm_of_stacked or test_gelu or rotary_of_stacked or swiglu_of"
OUT ?= bench/results

.PHONY: demo test check format package types bench bench-eval bench-train wheel test-gpu bench-gpu \
	bench-gpu-generate bench-gpu-eval kernels-table

demo: $(READY)
	$(PYTHON) -m cdgen.cli.demo out/demo

# A file of tests stays on one of the two processes: its fixtures are made once.
test: $(READY)
	$(PYTHON) -m pytest -q -n 2 --dist loadfile

check: $(READY) types
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/clang-format --dry-run --Werror $(NATIVE)
	$(PYTHON) -m pytest -q tests/test_layering.py

# The checkout's folders as the package that the wheel makes of them, for who follows files.
package:
	rm -rf build/package && mkdir -p build/package/cdgen
	ln -s $(CURDIR)/cdgen/* build/package/cdgen/
	ln -s $(CURDIR)/kernels $(CURDIR)/train $(CURDIR)/eval $(CURDIR)/bench build/package/cdgen/

types: $(READY) package
	cd build/package && $(CURDIR)/$(VENV)/bin/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p cdgen

format: $(READY)
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)
	$(VENV)/bin/clang-format -i $(NATIVE)

# Every figure of the README; run it on a quiet machine.
bench: $(READY)
	$(PYTHON) -m cdgen.bench.ops.bench_sample_contrastive --out bench/results/cpu-sample-contrastive.json
	GOMP_SPINCOUNT=1000 $(PYTHON) -m cdgen.bench.end_to_end.bench_generate --out bench/results/cpu-generate.json
	$(PYTHON) -m cdgen.bench.end_to_end.bench_startup --out bench/results/cpu-startup.json

# Likewise: make bench-eval MODEL=checkpoint DATA=folder, with blimp_filtered, supplement_filtered and
# entity_tracking in the folder.
bench-eval: $(READY)
	GOMP_SPINCOUNT=1000 $(PYTHON) -m cdgen.bench.end_to_end.bench_eval --model $(MODEL) --data $(DATA) \
		--out bench/results/cpu-eval.json

bench-train: $(READY)
	$(PYTHON) -m cdgen.bench.end_to_end.bench_train --out bench/results/cpu-train.json

# On a machine with a GPU: the kernels compiled and checked, then under compute-sanitizer, which sees
# each tensor's bounds only where PyTorch does not keep freed memory for itself.
test-gpu: package
	$(NEEDS_GPU)
	$(GPU_TESTS) -n 8 tests/kernels/gpu tests/bench/timing/test_gpu_timing.py
	$(GPU_TESTS) -m gpu tests/eval/scoring/test_scorer.py tests/cdgen/models/test_prefill.py tests/cdgen/engine/test_gpu.py
	PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 1 \
		--require-cuda-init no $(GPU_TESTS) $(SANITIZED)
	compute-sanitizer --tool racecheck --error-exitcode 1 --require-cuda-init no \
		$(GPU_TESTS) $(SANITIZED)

# Likewise: make bench-gpu OUT=folder
bench-gpu: package bench-gpu-generate
	$(NEEDS_GPU)
	$(GPU_PYTHON) -m cdgen.bench.ops.bench_gpu_sample_contrastive --out $(OUT)/gpu-sample-contrastive.json
	$(GPU_PYTHON) -m cdgen.bench.ops.bench_gpu_decode_attention --out $(OUT)/gpu-decode-attention.json
	$(GPU_PYTHON) -m cdgen.bench.ops.bench_gpu_decoder_ops --out $(OUT)/gpu-decoder-ops.json
	$(GPU_PYTHON) -m cdgen.bench.end_to_end.bench_train --paper-size --out $(OUT)/gpu-train.json

bench-gpu-generate: package
	$(NEEDS_GPU)
	$(GPU_PYTHON) -m cdgen.bench.end_to_end.bench_gpu_generate --out $(OUT)/gpu-generate.json

# A model of the paper's size on all zero-shot tasks: make bench-gpu-eval MODEL=checkpoint DATA=folder,
# MODEL giving the tokenizer.
bench-gpu-eval: package
	$(NEEDS_GPU)
	$(GPU_PYTHON) -m cdgen.bench.end_to_end.bench_eval --model $(MODEL) --data $(DATA) --paper-size \
		--device cuda --out $(OUT)/gpu-eval.json

# The table in docs/kernels.md: registers, spills and loads of every kernel. Needs no GPU.
kernels-table: $(READY)
	$(PYTHON) -m cdgen.bench.compiled.compiled_kernels --write docs/kernels.md

wheel: $(READY)
	$(PIP) wheel --no-deps --no-build-isolation -w dist .

# Set-up: once, and again when the pins, the build or the C++ change. The build tools come from the
# same pins, so nothing is built against versions that nobody tried.
$(READY): constraints.txt pyproject.toml CMakeLists.txt $(NATIVE)
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PIP) install -c constraints.txt scikit-build-core nanobind cmake ninja setuptools
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@
