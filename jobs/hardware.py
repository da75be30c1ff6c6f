"""What the machine under a trial is and can do: mixed precision in hardware or not, the GPU's name, the peak of memory."""

import contextlib
import ctypes
import os
import resource
import sys

import torch

from jobs.config import Config, ConfigError

EMULATE = "HARNESS_EMULATE"
"""Set to 1 in the environment, this variable lets bf16 and fp16 train where the hardware only emulates them: the numbers are right and
the speed is less than half of fp32's. It is meant for trying a grid of a GPU on a laptop."""


_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1
"""mallopt(3)'s numbers."""


def keep_memory() -> None:
    """Has this process keep the memory of large tensors for the next ones, which have the same sizes at every step. glibc otherwise asks
    the kernel for each anew, which clears every page of it: a fifth of a step's time. Does nothing with other C libraries."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def check_precision(config: Config, device: torch.device) -> None:
    """Raises ConfigError when the trial asks for mixed precision that this hardware has not, before anything is computed."""
    if config.precision in ("fp32", "fp64") or os.environ.get(EMULATE) == "1" or _computes_in(config.precision, device):
        return
    instead = 'set precision = "fp32"' if device.type == "cpu" else 'set precision = "fp16" or "fp32"'
    raise ConfigError([("precision", f'precision = "{config.precision}": {_name(device)} does not compute in it and would be slower than '
                                     f"in fp32; {instead}, or {EMULATE}=1 in the environment to try it all the same")])


def _computes_in(precision: str, device: torch.device) -> bool:
    if device.type == "cuda":
        return precision == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(able.get(unit) for unit in (f"avx512_{precision}", f"amx_{precision}", precision))


def _name(device: torch.device) -> str:
    return gpu_name(device) or "this CPU"


def gpu_name(device: torch.device) -> str | None:
    """The model of the GPU, None on a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def peak_memory_gb(device: torch.device) -> float:
    """Peak memory of the device, or of this process on a CPU, in GB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
