# `make train` and `make test` install everything that they need on a fresh machine. Further calls reuse it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BUILT := $(VENV)/.built

# The settings of the native extension. When they change, it is built again.
SETTINGS := $(strip NO_EXTENSION=$(NO_EXTENSION) NO_CUDA=$(NO_CUDA) FORCE_CUDA=$(FORCE_CUDA) $(TORCH_CUDA_ARCH_LIST))
ifneq ($(SETTINGS),$(shell cat $(VENV)/.settings 2>/dev/null))
REBUILD := FORCE
endif

# Trains a model of the built-in faces, in a few minutes on two cores. A second call continues an interrupted run.
TRAIN_RUN ?= runs/first
TRAIN_OPTIONS ?= --data drawn --image-size 32 --width 32 --batch-size 64 --iterations 1800

# The results that README.md shows. bench/results/README.md shows all results.
TABLES := bench/results/amd-epyc-avx2-2-threads.json bench/results/nvidia-h100-80gb-hbm3.json

.PHONY: train test lint types check clean build cpp cuda cuda-on-cpu bench rehearse compare tables wheel docs FORCE

train: $(BUILT)
	$(BIN)/igan-fast train --run $(TRAIN_RUN) --resume $(TRAIN_OPTIONS)

# The tests, on up to 8 cores with one thread each. PYTEST_OPTIONS='-n0 tests/ops' runs some tests, in one process.
test: $(BUILT)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal $(PYTEST_OPTIONS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc tests/csrc tests/cuda_on_cpu -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh')
	$(BIN)/python -m bench.table $(TABLES) --summary --check README.md
	$(BIN)/python -m bench.table bench/results/*.json --check bench/results/README.md

types: $(READY)
	$(BIN)/mypy

check: test lint types

$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "igan_fast needs Python 3.10 or newer; %s is %s. Name another with: make PYTHON=..." % (sys.executable, sys.version.split()[0]))'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel ninja pybind11 torch
	NO_EXTENSION=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@rm -f $(BUILT)
	@touch $@

# The native extension, built in place. The installation skips it (NO_EXTENSION), and this rule compiles what changed.
build: $(BUILT)

$(BUILT): $(READY) setup.py $(shell find csrc -type f) $(REBUILD)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@echo "$(SETTINGS)" > $(VENV)/.settings
	@touch $@

# The C++ tests, first with the address and undefined-behaviour sanitizers, then with the thread sanitizer.
cpp: $(READY)
	for sanitizer in address thread; do \
	    cmake -S . -B build/cpp-$$sanitizer -DIGAN_FAST_LIBRARY=OFF -DIGAN_FAST_SANITIZE=$$sanitizer && \
	    cmake --build build/cpp-$$sanitizer --parallel 2 && \
	    ctest --test-dir build/cpp-$$sanitizer --output-on-failure --parallel 2 || exit 1; \
	done

# Compiles the CUDA kernels for Ampere and Hopper and prints their registers and spills. It needs nvcc, but no GPU.
cuda: $(READY)
	csrc/cuda/compile_check.sh $(BIN)/python

# The operators' tests on the CUDA kernels, compiled as C++ for the CPU, with the address and undefined-behaviour
# sanitizers. CUDA_ON_CPU_OPTIONS='tests/ops/test_norm_act.py' runs some tests; 'tests/cuda_on_cpu/test_mutations.py'
# shows that mistakes in the kernels are caught.
cuda-on-cpu: $(BUILT)
	cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m cuda_on_cpu.run $(CUDA_ON_CPU_OPTIONS)

# The benchmarks, printed as tables. BENCH_OPTIONS='--results bench/results' also writes the results to a file, from
# which `make tables` prints the tables in README.md and bench/results/README.md.
bench: $(BUILT)
	$(BIN)/pytest bench --benchmark-enable --benchmark-quiet $(BENCH_OPTIONS)

# Runs what bench/gpu.sh runs on a GPU, with tiny inputs on the CPU: whether each command works.
rehearse: $(BUILT)
	bench/gpu.sh --rehearse build/rehearsal $(abspath $(BIN))/python

# Compares the working tree with a commit, or two commits: tests first, then benchmarks in alternating processes.
# bench/compare.py describes it. make compare REF=main COMPARE_OPTIONS='-k feature_l1'
REF ?= HEAD
compare: $(BUILT)
	$(BIN)/python -m bench.compare $(REF) $(REF2) $(COMPARE_OPTIONS)

tables: $(READY)
	$(BIN)/python -m bench.table $(TABLES) --summary --write README.md
	$(BIN)/python -m bench.table bench/results/*.json --write bench/results/README.md

# Builds the source archive and the wheel into dist/, and tests the wheel on another PyTorch (tests/release/check.py).
# WHEEL_OPTIONS='--torch 2.11.0 2.14.1' selects the versions of PyTorch; '--no-tests' skips the tests.
wheel: $(READY)
	cd tests && ../$(BIN)/python -m release.check $(WHEEL_OPTIONS)

# Builds the pages in build/docs from the docstrings, README.md, CHANGELOG.md, CONTRIBUTING.md, the commands' --help, the
# results and the imports. (With --quiet mkdocs does not count warnings, so --strict would ignore them.)
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -f docs/mkdocs.yml

$(VENV)/.docs: $(READY)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the pages are built with Python 3.11 or newer")'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt mkdocs-material mkdocstrings-python
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
