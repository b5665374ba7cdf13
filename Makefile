# One door for developers and for first visitors: `make` lists what there is.

VENV := .venv
PY := $(VENV)/bin/python
MIN := 3.11
JOBS ?= 2
PYTEST_ARGS ?=
FUZZ_S ?=
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3 /usr/bin/python3.11)
# What a rebuild depends on. Plain Python needs none: the installation is editable.
SOURCES := $(wildcard mgmt/shell/shim.c mgmt/shell/shim/*.c mgmt/shell/build.py mgmt/worker/*.c mgmt/worker/worker/*.c mgmt/rt/*.[ch] mgmt/kernel/*.c mgmt/kernel/core/*.[ch])

.DEFAULT_GOAL := help
.PHONY: help venv observe run test check sanitize bench drift wheel clean
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

help: ## this list
	@echo 'usage: make TARGET [VARIABLE=value]'; echo
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12
	@echo
	@echo 'variables (arguments or environment)'
	@echo '  PYTHON       interpreter for $(VENV), $(MIN) or newer (default: the first that fits)'
	@echo '  CC, CFLAGS   C compiler and extra flags for what is compiled (default: cc)'
	@echo '  CLANG        compiler of what the kernel runs of mgmt-observer (default: clang)'
	@echo '  JOBS         test processes at once (default: 2)'
	@echo '  PYTEST_ARGS  more arguments for pytest, e.g. PYTEST_ARGS="-k notify -x"'
	@echo '  FUZZ_S       hunt for new cases for so many seconds each (default: the same cases each time)'
	@echo '  PIP_*        settings of pip, e.g. PIP_INDEX_URL=https://mirror.example/simple'

venv: $(VENV)/.built ## create .venv and build everything in it
	@:

observe: venv ## build what observes tasks by eBPF (needs clang and libbpf; `make venv` does where they are)
	@$(PY) -m mgmt.shell.build

run: venv ## start the daemon, ask a real model about real files, stop again
	@$(PY) -m mgmt_cli.tour

test: venv ## the whole test suite
	@$(PY) -m pytest -n $(JOBS) --dist loadgroup --durations 10 $(PYTEST_ARGS)

check: venv build/typed ## lint, formatting, types, floors, generated files, coverage of candidates
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH"; failed=0; pass() { echo "== $$*"; "$$@" || failed=1; }; \
	pass ruff check --quiet .; \
	pass ruff format --quiet --check .; \
	pass mypy; \
	pass lint-imports --no-logo; \
	pass python -m tests.drift --check; \
	pass python -m tests.covered; \
	exit $$failed

sanitize: venv ## the C kernel: warnings, static analysis, fuzzing, its tests under sanitizers
	@tests/kernel/warnings.sh
	@tests/kernel/fuzz/fuzz.sh $(FUZZ_S)
	@tests/kernel/sanitize.sh -n $(JOBS)

bench: venv ## measure against floors of the same run
	@$(PY) -m bench

drift: venv ## write generated files anew: schema, golden frames, documents
	@$(PY) -m tests.drift --write

wheel: venv ## build a wheel into dist/
	@rm -rf build/lib* build/bdist*  # setuptools would ship modules that are no longer in the tree
	@$(VENV)/bin/pip wheel --quiet --no-deps --wheel-dir dist . && ls dist/*.whl

clean: ## remove .venv and everything built
	@rm -rf $(VENV) build dist *.egg-info mgmt/shell/mgmt-shim mgmt/rt/mgmt-executive mgmt/rt/mgmt-observer mgmt/worker/mgmt-worker .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find mgmt cli backends tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# The interpreter: made again when it is missing, broken or too old, kept otherwise.
NEW_ENOUGH = -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
FITS = -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
$(VENV)/.python: $(shell $(PY) $(FITS) || echo again)
	@if $(PY) $(FITS); then touch $@; exit; fi; \
	for python in $(CANDIDATES); do \
	    if $$python $(NEW_ENOUGH); then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo 'mgmt needs Python $(MIN) or newer; none among: $(CANDIDATES)' >&2; \
	    echo 'Install one (Debian, Ubuntu: apt-get install python3.11 python3.11-venv)' >&2; \
	    echo 'or name one: make venv PYTHON=/path/to/python' >&2; \
	    exit 1; \
	fi; \
	echo "== $(VENV) with $$($$found --version) ($$found)"; \
	$$found -m venv --clear $(VENV) || { \
	    echo "$$found cannot make a virtual environment." >&2; \
	    echo "Debian, Ubuntu: apt-get install $$($$found -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2; \
	    exit 1; \
	}; \
	touch $@
.PHONY: again
again:

# The long step shows one line a package and keeps pip's own words in .venv/pip.log.
$(VENV)/.built: $(VENV)/.python pyproject.toml $(SOURCES)
	@rm -f $@
	@if [ -n "$(filter $(VENV)/.python pyproject.toml,$?)" ]; then \
	    echo '== packages and the build of mgmt (a minute on a first visit)'; set -- '.[dev,magika,grpc,debian,postgres,redis]'; \
	else \
	    echo '== build: C sources changed'; set -- . --no-deps --no-build-isolation; \
	fi; \
	{ $(PY) -m pip install --disable-pip-version-check --no-input -e "$$@" 2>&1 && touch $@; } | tee $(VENV)/pip.log | \
	while read -r verb what rest; do case "$$verb $$what" in \
	    Collecting\ * | "Building wheels" | "Installing collected") echo "   $$verb $$what";; \
	esac; done; \
	$(PY) -m compileall -q mgmt cli backends; \
	[ -e $@ ] || { tail -n 40 $(VENV)/pip.log >&2; echo 'all of it: $(VENV)/pip.log' >&2; exit 1; }

# mypy cannot follow the mapping in pyproject.toml, but it follows links with the installed names.
build/typed:
	@mkdir -p $@ && ln -sfn ../../cli $@/mgmt_cli && ln -sfn ../../backends $@/mgmt_backends
