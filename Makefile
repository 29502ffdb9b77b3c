# Everything runs in .venv, which every target makes if it is not there. `make demo` and `make test` are all one needs.

PYTHON ?= python3
# On a machine with a GPU: make install CONSTRAINTS=
CONSTRAINTS ?= --constraint constraints-cpu.txt
export OMP_NUM_THREADS ?= 1

.PHONY: install demo demo-fast test bench style quality clean

install: .venv/installed

.venv/installed: setup.py constraints-cpu.txt
	test -d .venv || $(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable '.[dev]' $(CONSTRAINTS)
	touch $@

demo: install
	PATH="$(CURDIR)/.venv/bin:$$PATH" bash recipes/tiny-cpu/demo.sh

demo-fast: install
	PATH="$(CURDIR)/.venv/bin:$$PATH" bash recipes/tiny-cpu/demo.sh --fast

test: install
	.venv/bin/python -m pytest

bench: install
	.venv/bin/python tests/bench.py

style: install
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

quality: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

clean:
	rm -rf runs build *.egg-info
