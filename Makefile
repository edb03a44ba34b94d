# make demo    the main job on the bundled sample: train, evaluate, export, verify, report
# make test    the default test suite
# make lint    ruff and mypy
# make clean   removes .venv and build products
#
# PYTHON=/path/to/python selects the Python of .venv (3.11, 3.12 or 3.13).
# ARGS="..." is passed to the command, e.g. make demo ARGS="--epochs 1".

VENV := .venv
# Two processes, each test file in one of them; most of the time is spent tracing graphs in Python.
TWO := -n 2 --dist loadfile
export PYTHON

.PHONY: help demo test lint clean

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

demo:
	@sh tools/venv.sh $(VENV)
	@$(VENV)/bin/python -m kdkeras demo $(ARGS)

test:
	@sh tools/venv.sh $(VENV) test
	@$(VENV)/bin/python -m pytest $(TWO) $(ARGS)

lint:
	@sh tools/venv.sh $(VENV) test
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check .
	@$(VENV)/bin/python -m mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
