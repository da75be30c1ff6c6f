"""The processes that train one trial together: joining them, adding their numbers up, agreeing at a step."""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def joined(rank: int, ranks: int, *, address: str, device: str, meet_s: float = 60.0) -> Iterator[None]:
    """Joins the process group of a trial for the length of a `with` block; does nothing when there is one process.

    Args:
        address: a rendezvous all ranks reach: "file:///path" on one machine, "tcp://host:port" across nodes, or "env://".
        device: "cpu" (gloo) or "cuda:N" (nccl).
        meet_s: how long to wait for a rank that does not come. Once all are there, a step may take up to half an hour (a checkpoint
            on a slow disk does).

    Raises:
        RuntimeError: not all ranks came in time; the text names the address.
    """
    if ranks == 1:
        yield
        return
    if address.startswith("file:"):  # one machine: the loopback interface is enough, and resolving a host name may hang
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if os.path.exists("/sys/class/net/lo") else "lo0")
    cuda = device.startswith("cuda")
    try:
        store, _, _ = next(rendezvous(address, rank, ranks, timeout=datetime.timedelta(seconds=meet_s)))
        store.set(f"here-{rank}", "1")
        store.wait([f"here-{other}" for other in range(ranks)], datetime.timedelta(seconds=meet_s))
        dist.init_process_group("nccl" if cuda else "gloo", store=PrefixStore("group", store), rank=rank, world_size=ranks,
                                timeout=datetime.timedelta(minutes=30))
    except Exception as error:
        raise RuntimeError(f"rank {rank} of {ranks} could not meet the others at {address} within {meet_s:.0f} s: {error}") from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def in_parallel(network: torch.nn.Module, device: torch.device, *, same_every_step: bool) -> DistributedDataParallel:
    """`network` with the gradients averaged over all ranks.

    Args:
        same_every_step: whether each backward pass is followed by an exchange; not so where gradients are accumulated.
    """
    # Buffers are the same on every rank already: batch norm is over the global batch (jobs.batch_norm).
    known = signature(DistributedDataParallel).parameters
    keep = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its name before torch 2.13
    options: dict[str, Any] = {"device_ids": [device] if device.type == "cuda" else None, keep: False}
    return DistributedDataParallel(network, gradient_as_bucket_view=True, static_graph=same_every_step, **options)


def add_up(values: torch.Tensor, ranks: int) -> torch.Tensor:
    """The sum of a tensor over all ranks."""
    if ranks > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def gather(values: torch.Tensor, ranks: int) -> torch.Tensor:
    """The tensors of all ranks, stacked: (ranks, ...)."""
    if ranks == 1:
        return values[None]
    parts = [torch.empty_like(values) for _ in range(ranks)]
    dist.all_gather(parts, values)
    return torch.stack(parts)


class Agreement:
    """Yes-or-no questions that all ranks answer together, at every step, without touching the GPU."""

    def __init__(self, ranks: int, device: str):
        self._ranks = ranks
        self._group: Any = dist.new_group(backend="gloo") if ranks > 1 and device.startswith("cuda") else None

    def any(self, *answers: bool) -> tuple[bool, ...]:
        """For each question, whether any rank said yes."""
        if self._ranks == 1:
            return answers
        votes = torch.tensor([float(a) for a in answers])
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._group)
        return tuple(bool(v) for v in votes)
