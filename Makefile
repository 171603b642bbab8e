# make demo | make test: all a newcomer needs. Both set .venv up on their first run.

VENV := .venv
PYTHON := $(VENV)/bin/python
RUNTIME := $(VENV)/.runtime
READY := $(VENV)/.ready
PIP := $(PYTHON) -m pip --disable-pip-version-check --quiet
SOURCES := cdgen kernels train eval bench tests docs
NATIVE := $(wildcard kernels/cpu/*.cpp kernels/cpu/*.h)
PYTEST := $(PYTHON) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# The kernels need no build on a GPU: without a .venv, these targets use the machine's own Python on
# the checkout as it is, with what PYTHONPATH already names (wheels brought along, say) kept.
ifeq ($(wildcard $(READY)),)
GPU_PYTHON := python3
test-gpu% bench-gpu%: export PYTHONPATH := $(CURDIR)/build/package$(if $(PYTHONPATH),:$(PYTHONPATH))
else
GPU_PYTHON := $(PYTHON)
endif
NEEDS_GPU = @$(GPU_PYTHON) -c "import sys, torch; torch.cuda.is_available() or \
	sys.exit('make $@: needs a CUDA device; there is none here')"
GPU_TESTS := $(GPU_PYTHON) -m pytest -q --thorough -o addopts="--import-mode=importlib --strict-markers"
SANITIZED := tests/kernels/gpu -k "sizes_change_no_bit and (all-three or greedy) or whole_numbers or \
	any_distance_apart or every_length or neighbours_and_room or norm_of_stacked or \
	gelu and order_and_batch or rotary_of_stacked or swiglu_of"
OUT ?= bench/results

.PHONY: demo test test-thorough torture check format package types docs docs-options bench bench-pictures bench-check bench-eval \
	bench-bad-kinds bench-number-formats bench-engines bench-scale bench-train fuzz wheel \
	test-gpu test-gpu-engine test-gpu-kernels test-gpu-sanitizers \
	bench-gpu bench-gpu-generate bench-gpu-transformers bench-gpu-ops bench-gpu-sampler bench-gpu-train bench-gpu-eval gpu-packages kernels-table

demo: $(RUNTIME)
	$(PYTHON) -m cdgen.cli.demo out/demo

# A test file stays on one of the two processes, so its fixtures are made once. The longest files
# come first, and the many short ones fill the gaps.
test: $(READY)
	$(PYTEST) tests/kernels/gpu tests/bench tests

# Every case, all data and all GPU generations.
test-thorough: $(READY)
	$(PYTEST) --thorough tests/train/test_smoke.py tests/kernels/gpu tests/bench tests

# The full campaign of faults: kills, failing calls, power loss, flipped bytes. MOST=N tries at most N
# cases of each list of them. Its figures go into docs/reliability.md.
SEED ?= 1
ROUNDS ?= 200
torture: $(READY)
	$(PYTHON) tests/torture/campaign.py --seed $(SEED) --rounds $(ROUNDS) $(if $(MOST),--most $(MOST)) \
		--out docs/reliability.json

check: $(READY) types
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/clang-format --dry-run --Werror $(NATIVE)
	$(PYTHON) -m pytest -q tests/test_layering.py

# Lay the checkout out as the installed package, for mypy and for machines without a build.
package:
	rm -rf build/package && mkdir -p build/package/cdgen
	ln -s $(CURDIR)/cdgen/* build/package/cdgen/
	ln -s $(CURDIR)/kernels $(CURDIR)/train $(CURDIR)/eval $(CURDIR)/bench build/package/cdgen/

types: $(READY) package
	cd build/package && $(CURDIR)/$(VENV)/bin/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p cdgen

# The documentation as a site that opens from disk: build/docs/index.html. Warnings are errors.
docs: $(READY)
	$(VENV)/bin/sphinx-build -q -W --keep-going -E -b html docs build/docs

# The tables of options in docs/commands. A test compares them with the commands.
docs-options: $(READY)
	$(PYTHON) tests/docs/command_options.py

format: $(READY)
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)
	$(VENV)/bin/clang-format -i $(NATIVE)

# Every figure of the README; run it on a quiet machine.
bench: $(READY)
	$(PYTHON) -m cdgen.bench.ops.bench_sample_contrastive --out bench/results/cpu-sample-contrastive.json
	$(PYTHON) -m cdgen.bench.ops.bench_sample_contrastive --instruction-set avx2 \
		--out bench/results/cpu-sample-contrastive-avx2.json
	GOMP_SPINCOUNT=1000 $(PYTHON) -m cdgen.bench.end_to_end.bench_generate --out bench/results/cpu-generate.json
	GOMP_SPINCOUNT=1000 $(PYTHON) -m cdgen.bench.end_to_end.bench_generate --dtype bfloat16 \
		--out bench/results/cpu-generate-bf16.json
	$(PYTHON) -m cdgen.bench.end_to_end.bench_startup --out bench/results/cpu-startup.json
	$(MAKE) bench-pictures

# docs/benchmarks.md and docs/pictures, from the files in bench/results and nothing else.
bench-pictures: $(READY)
	$(PYTHON) -m cdgen.bench.pictures.page --write docs

# make bench-check NEW=folder: fails if a ratio in its files is worse than in bench/results.
bench-check: $(READY)
	$(PYTHON) -m cdgen.bench.regressions $(NEW)

# make bench-eval MODEL=checkpoint DATA=folder, with blimp_filtered, supplement_filtered and
# entity_tracking in the folder.
bench-eval: $(READY)
	GOMP_SPINCOUNT=1000 $(PYTHON) -m cdgen.bench.end_to_end.bench_eval --model $(MODEL) --data $(DATA) \
		--out bench/results/cpu-eval.json

bench-bad-kinds: $(READY)
	GOMP_SPINCOUNT=1000 $(PYTHON) -m cdgen.bench.end_to_end.bench_bad_kinds --out bench/results/cpu-bad-kinds.json

bench-number-formats: $(READY)
	GOMP_SPINCOUNT=1000 $(PYTHON) -m cdgen.bench.end_to_end.bench_bad_kinds --formats \
		--out bench/results/cpu-number-formats.json
	GOMP_SPINCOUNT=1000 $(PYTHON) -m cdgen.bench.ops.bench_decode_attention \
		--out bench/results/cpu-decode-attention.json

# cdgen beside other engines, each in an environment of its own with the versions of its table. One that
# cannot be installed is left out, and the results say so. torchvision and its kin are not needed, and
# beside a CPU build of torch they do not load.
ENGINES := $(patsubst bench/end_to_end/engines/%.txt,build/engines/%/.ready,$(wildcard bench/end_to_end/engines/*.txt))

bench-engines: $(READY) package
	-$(MAKE) --keep-going $(ENGINES)
	$(PYTHON) -m cdgen.bench.end_to_end.bench_engines --out bench/results/cpu-engines.json

build/engines/%/.ready: bench/end_to_end/engines/%.txt
	python3 -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check --quiet install -r $<
	$(@D)/bin/python -m pip --disable-pip-version-check --quiet uninstall --yes torchvision torchaudio torchcodec
	touch $@

# What a large corpus costs beside its models; strace, if installed, counts system calls.
bench-scale: $(READY)
	$(PYTHON) -m cdgen.bench.end_to_end.bench_scale --out bench/results/scale.json

bench-train: $(READY)
	$(PYTHON) -m cdgen.bench.end_to_end.bench_train --out bench/results/cpu-train.json

# On a machine with a GPU. Each part is a target of its own, so that one failure does not stop the
# others and each fits into ten minutes.
test-gpu: test-gpu-engine test-gpu-kernels test-gpu-sanitizers

test-gpu-engine: package
	$(NEEDS_GPU)
	$(GPU_TESTS) -m gpu tests/eval/scoring/test_scorer.py tests/cdgen/models/test_prefill.py \
		tests/cdgen/engine/test_gpu.py

test-gpu-kernels: package
	$(NEEDS_GPU)
	$(GPU_TESTS) -n 8 tests/kernels/gpu tests/bench/timing/test_gpu_timing.py

# compute-sanitizer sees the bounds of each tensor only if PyTorch does not keep freed memory.
test-gpu-sanitizers: package
	$(NEEDS_GPU)
	PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 1 \
		--report-api-errors no --require-cuda-init no $(GPU_TESTS) $(SANITIZED)
	compute-sanitizer --tool racecheck --error-exitcode 1 --report-api-errors no \
		--require-cuda-init no $(GPU_TESTS) $(SANITIZED)

# On a machine with a GPU: make bench-gpu OUT=folder, or one part of it.
bench-gpu: bench-gpu-generate bench-gpu-ops bench-gpu-sampler bench-gpu-train bench-gpu-transformers

bench-gpu-generate: package
	$(NEEDS_GPU)
	$(GPU_PYTHON) -m cdgen.bench.end_to_end.bench_gpu_generate --out $(OUT)/gpu-generate.json

# Its last case may hang: what was measured before is in the file.
bench-gpu-transformers: package
	$(NEEDS_GPU)
	timeout 480 $(GPU_PYTHON) -m cdgen.bench.end_to_end.bench_gpu_transformers \
		--out $(OUT)/gpu-transformers.json

bench-gpu-ops: package
	$(NEEDS_GPU)
	$(GPU_PYTHON) -m cdgen.bench.ops.bench_gpu_decode_attention --out $(OUT)/gpu-decode-attention.json
	$(GPU_PYTHON) -m cdgen.bench.ops.bench_gpu_decoder_ops --out $(OUT)/gpu-decoder-ops.json

bench-gpu-sampler: package
	$(NEEDS_GPU)
	$(GPU_PYTHON) -m cdgen.bench.ops.bench_gpu_sample_contrastive --out $(OUT)/gpu-sample-contrastive.json

bench-gpu-train: package
	$(NEEDS_GPU)
	$(GPU_PYTHON) -m cdgen.bench.end_to_end.bench_train --paper-size --out $(OUT)/gpu-train.json

# A model of the paper's size on all zero-shot tasks: make bench-gpu-eval MODEL=checkpoint DATA=folder.
# MODEL gives the tokenizer.
bench-gpu-eval: package
	$(NEEDS_GPU)
	$(GPU_PYTHON) -m cdgen.bench.end_to_end.bench_eval --model $(MODEL) --data $(DATA) --paper-size \
		--device cuda --out $(OUT)/gpu-eval.json

# What the Python of a GPU machine without a network may lack: bring the folder along and name it in
# PYTHONPATH.
GPU_PYTHON_VERSION ?= 3.12
gpu-packages: $(READY)
	$(PIP) install -c constraints.txt --target build/gpu-packages --upgrade --only-binary :all: --no-deps \
		--python-version $(GPU_PYTHON_VERSION) pydantic pydantic-core annotated-types typing-inspection typing-extensions \
		datasets dill xxhash multiprocess hypothesis sortedcontainers

# docs/kernels-compiled.md: registers, spills and loads of every kernel. Needs no GPU.
kernels-table: $(READY)
	$(PYTHON) -m cdgen.bench.compiled.compiled_kernels --write docs/kernels-compiled.md

# Search for files that are neither used nor cleanly refused: make fuzz MINUTES=10, for each of
# twelve kinds of file. docs/fuzz.md says what was run.
MINUTES ?= 10
fuzz: $(READY)
	$(PIP) install -c constraints.txt --no-deps atheris
	$(PYTHON) tests/fuzz/run_fuzz.py --minutes $(MINUTES)

# The hashes of every version in constraints.txt but torch's: users choose a build of that.
requirements.lock: constraints.txt
	grep -v "^torch==" $< | uv pip compile --quiet --no-deps --generate-hashes --no-annotate --no-header \
		--python-version 3.11 --output-file $@ -

wheel: $(READY)
	$(PIP) wheel --no-deps --no-build-isolation -w dist .

# Set-up, repeated when the pins, the build or the C++ change. The demo needs the runtime only; the
# development tools come with the first other target. The build tools are pinned as well.
$(RUNTIME): constraints.txt pyproject.toml CMakeLists.txt $(NATIVE)
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PIP) install -c constraints.txt scikit-build-core nanobind cmake ninja setuptools
	$(PIP) install -c constraints.txt --no-build-isolation -e .
	touch $@

$(READY): $(RUNTIME)
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@
