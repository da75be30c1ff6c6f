# `make` lists the targets. Everything is installed into .venv and nothing outside this folder is changed.
# PYTHON=python3.12 chooses the interpreter; otherwise the first of python3, python3.14 ... python3.11 that is new enough.

PYTHON ?=
PY     := .venv/bin/python
READY  := .venv/.set-up-done$(if $(PYTHON),-$(notdir $(PYTHON)))
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.SUFFIXES:
.PHONY: help setup demo test test-slow test-slurm test-exhaustive chaos lint bench-loader bench-throughput bench-start bench-launch bench-search bench-barrier bench-halving bench-confirm bench-training bench-trials bench-gpu bench-analysis gallery clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## */\1|/p' Makefile | while IFS='|' read -r name text; do printf 'make %-17s %s\n' "$$name" "$$text"; done

setup: $(READY)  ## install everything into .venv; at once when it is up to date

$(READY): requirements.txt setup.cfg pyproject.toml .ci/setup
	@PYTHON='$(PYTHON)' bash .ci/setup $(READY)

demo: setup  ## the digits study, its report and figures, about a minute on two cores
	@$(PY) -m harness.launch --local
	@$(PY) -m analysis.plots runs/digits
	@printf '\nOpen the report in a browser: %s\nThe figures are in %s\n' "$$PWD/runs/digits/report.html" "$$PWD/runs/digits/figures"

test: setup  ## the fast tests and those of the repository's shape
	@$(PY) -m pytest -q -m 'not slow and not slurm' -n 2

test-slow: setup  ## kills, resumes, several ranks: minutes
	@$(PY) -m pytest -q -m 'slow and not slurm and not exhaustive' -n 3

test-slurm: setup  ## brings Slurms up on this machine (Debian or Ubuntu, root), tests on them, takes them down
	@[ "$$(id -u)" = 0 ] || { echo 'make test-slurm starts a Slurm of its own and needs root: slurm/README.md' >&2; exit 1; }
	@$(PY) -m pytest -q -m 'slurm and not exhaustive' -n 4 --dist loadfile

test-exhaustive: setup  ## every search algorithm, every benchmark, 100,000 trials and more; root
	@$(PY) -m pytest -q -m exhaustive -n 2

chaos: setup  ## 300 random faults on 150 trials on a Slurm of its own (root); SEED=n repeats a run's faults
	@$(PY) -m tests.chaos $(if $(SEED),--seed $(SEED))

lint: setup  ## ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m mypy

bench-loader: setup  ## images/s of the cache and batched augmentation against DataLoader and PIL
	@$(PY) -m benchmarks.loader

bench-throughput: setup  ## trials per hour against submitit alone and a hand-written loop
	@$(PY) -m benchmarks.throughput

bench-start: setup  ## seconds from the command to the first training step; as root also on a Slurm of its own
	@$(PY) -m benchmarks.start

bench-launch: setup  ## what 10,000 trials cost the launcher, on a Slurm that it brings up (Debian or Ubuntu, root)
	@$(PY) -m benchmarks.launch

bench-search: setup  ## how good the configs are that a search finds, against other tools' defaults; minutes, FULL=1 an hour
	@$(PY) -m benchmarks.search $(if $(FULL),--full)

bench-halving: setup  ## epochs that halving needs to the result of a search without it; minutes, FULL=1 half an hour
	@$(PY) -m benchmarks.halving $(if $(FULL),--full)

bench-confirm: setup  ## how much too good the reported best is, with and without [confirm]; a minute, FULL=1 a few
	@$(PY) -m benchmarks.confirm $(if $(FULL),--full)

bench-barrier: setup  ## how busy a search keeps its slots, with a barrier between waves and without
	@$(PY) -m benchmarks.barrier

bench-training: setup  ## images/s of whole trainings on a CPU, against torchvision's and timm's scripts; twenty minutes
	@$(PY) -m benchmarks.training $(if $(TORCHVISION),--torchvision-scripts $(TORCHVISION)/references/classification) $(if $(TIMM),--timm-scripts $(TIMM))

bench-trials: setup  ## trials per hour on a Fashion-MNIST-shaped grid, against other tools; half an hour
	@$(PY) -m benchmarks.trials

bench-gpu: setup  ## training on a GPU: data path, roofline, many trials on one GPU; nine minutes
	@$(PY) -m benchmarks.gpu

bench-analysis: setup  ## seconds that the figures take, against optuna's on the same trials; six minutes
	@$(PY) -m benchmarks.analysis

gallery: setup  ## the README's pictures again, from real digits studies; two minutes
	@$(PY) docs/make_gallery.py

clean:  ## remove .venv and caches; studies (runs/) and data (data/) stay
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find harness jobs analysis tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
