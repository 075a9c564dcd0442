# The two commands of a new user are `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= demo
# Where it is set, every process would compile PyTorch's thousand modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check docs linkcheck wheel-test install clean

demo: .venv/installed
	rm -rf $(OUT)
	$(BIN)/ghostify run --model resnet20 --data digits --epochs 6 --target-speedup 1.5 --tune 2 --rivals \
		--images 128 --effort fast --engine openvino --out $(OUT)

# A worker per core, with one thread each: two pools of threads on the same cores wait for each other.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal --durations=25

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The package as a user gets it, away from the checkout.
wheel-test: .venv/installed
	.ci/wheel

# Warnings are errors; links within the pages are checked, and their examples run. Where: docs/_build/html/index.html
docs: .venv/installed
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	$(BIN)/python -m sphinx -q -W --keep-going -b doctest docs docs/_build/doctest

# Links that leave the pages; needs a network, and so is not part of CI.
linkcheck: .venv/installed
	$(BIN)/python -m sphinx -q -W --keep-going -b linkcheck docs docs/_build/linkcheck

install: .venv/installed

# uv resolves and unpacks PyTorch's gigabytes several times faster than pip.
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ghostify needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --editable '.[run,export,detect,int8]' --group dev --group docs
	touch $@

clean:
	rm -rf .venv $(OUT) docs/_build
