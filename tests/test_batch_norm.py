"""Batch norm over the global batch: with several ranks the same as one process, with one rank the same as torch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn

from jobs import models
from jobs.batch_norm import GlobalBatchNorm, across_ranks
from jobs.cnns import NETWORKS
from jobs.config import Config

SMALL = Config(model="dynamic_cnn", depth=2, filters=4, hidden=8)
DIGITS = {"classes": 10, "channels": 1, "size": 8}


def test_with_one_rank_batch_norm_is_torchs_bit_for_bit() -> None:
    torch.manual_seed(0)
    ours, theirs, x_BCHW = GlobalBatchNorm(3), nn.BatchNorm2d(3), torch.randn(5, 3, 4, 4)
    assert torch.equal(ours(x_BCHW), theirs(x_BCHW)) and torch.equal(ours.running_var, theirs.running_var)  # type: ignore[arg-type]
    model = nn.Sequential(theirs)
    assert across_ranks(model)[0] is theirs  # type: ignore[index]


class NormAndActivation(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: what comes after batch norm is a child of it."""

    def __init__(self, features: int):
        super().__init__(features)
        self.drop, self.act = nn.Identity(), nn.SiLU()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        normal: Tensor = self.act(self.drop(super().forward(x_BCHW)))
        return normal


def network_of_norms() -> nn.Module:
    """Batch norms in a row, so that the gradient of the first passes the statistics of the next; one averages plainly, one holds its
    activation, and one is of one dimension."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4, momentum=None), NormAndActivation(4))
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), inner, nn.Flatten(), nn.BatchNorm1d(4 * 9),
                         nn.Linear(4 * 9, 2)).double()


def test_a_batch_norm_that_does_something_unknown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Squared(nn.BatchNorm2d):
        def forward(self, x_BCHW: Tensor) -> Tensor:
            return super().forward(x_BCHW) ** 2

    monkeypatch.setattr("jobs.batch_norm.ranks", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "gloo")
    with pytest.raises(TypeError, match="Squared is a batch norm that does more, and how to share it out over 2 ranks is not known"):
        across_ranks(nn.Sequential(Squared(3)))


def batches() -> list[Tensor]:
    """Images away from zero, where a one-pass variance would lose digits."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(7, 2, 6, 6, generator=generator, dtype=torch.float64) + 10 for _ in range(3)]


def train_norms(network: nn.Module, *, rows: slice) -> dict[str, Tensor]:
    """Logits of the last batch, gradients summed over batches, and buffers; `rows` is this rank's share of each batch."""
    logits = torch.empty(0)
    for x_BCHW in batches():
        logits = network(x_BCHW[rows])
        (logits.square().sum() / 7).backward()
    found = {f"gradient {name}": p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **found, **dict(network.named_buffers())}


def rank_of_norms(rank: int, rows: list[slice], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(rows))
    network = across_ranks(network_of_norms())
    assert sum(isinstance(m, GlobalBatchNorm) for m in network.modules()) == 4
    found = train_norms(network, rows=rows[rank])
    for name, value in found.items():
        if name.startswith("gradient"):
            dist.all_reduce(value)
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    built = models.build(SMALL, **DIGITS)
    assert sum(isinstance(m, GlobalBatchNorm) for m in built.modules()) == 2
    assert set(built.state_dict()) == set(NETWORKS["dynamic_cnn"](SMALL, **DIGITS).state_dict())
    dist.destroy_process_group()


@pytest.mark.parametrize("rows", [pytest.param([slice(0, 4), slice(4, 7)], id="uneven"),
                                  pytest.param([slice(0, 7), slice(7, 7)], id="one empty", marks=pytest.mark.slow)])
def test_two_ranks_equal_one_process_on_the_whole_batch(rows: list[slice], tmp_path: Path) -> None:
    expected = train_norms(network_of_norms(), rows=slice(0, 7))
    torch.multiprocessing.spawn(rank_of_norms, (rows, str(tmp_path)), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert set(found) == set(expected)
        for name, value in found.items():
            whole = expected[name][rows[rank]] if name == "logits" else expected[name]
            assert torch.allclose(value, whole, rtol=1e-12, atol=1e-12), (name, (value - whole).abs().max())
