"""The peak memory that attempts.parquet reports, on systems that count it in other units."""

import resource
import sys
from types import SimpleNamespace

import pytest
import torch

from jobs.hardware import peak_memory_gb


@pytest.mark.parametrize("platform, unit", [("linux", 1024), ("darwin", 1)])
def test_peak_memory_of_a_process_is_in_gb(platform: str, unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """getrusage counts kilobytes on Linux and bytes on macOS."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3_000_000))
    assert peak_memory_gb(torch.device("cpu")) == pytest.approx(0.003 * unit)
