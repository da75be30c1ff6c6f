"""Fixtures that several test files share."""

import os
import signal
from pathlib import Path

import pytest
from slurm_fixture import cluster, shared_cluster  # noqa: F401

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded: two processes with two threads each fight for two cores
os.environ.setdefault("HARNESS_EMULATE", "1")  # the tests of mixed precision are the same wherever they run
os.environ.setdefault("HARNESS_REPORT", "0")  # a launch of seconds need not draw a page for as long; the report's tests ask for it
signal.signal(signal.SIGINT, signal.default_int_handler)  # run in the background, tests and all that they start would be deaf to Ctrl-C


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the digits in its cache."""
    from jobs import data as jobs_data
    from jobs.config import Config

    folder = tmp_path_factory.mktemp("data")
    jobs_data.prepare(Config(), folder)
    return folder
