"""Checkpoints that are whole or absent.

A file is a header line with the SHA-256 of what follows, then what `torch.save` wrote. It is written aside, flushed to disk and
renamed into place, so that a kill or a full disk leaves the older one untouched; a file that does not match its checksum is set
aside as `*.bad` and the one before it is used. The last two are kept.
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from jobs import durable

MAGIC = b"harness-checkpoint 1 "
KEEP = 2


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written; the text names the file and the reason. Earlier ones are intact."""


def to_bytes(state: dict[str, Any]) -> bytes:
    """`torch.save` into memory; equal states give equal bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def save(folder: Path, state: dict[str, Any], *, epoch: int, step: int) -> None:
    """Keeps `state`, reached after `epoch` whole epochs and `step` steps of the next one, and drops all but the last two.

    Raises:
        CheckpointError: it could not be written.
    """
    payload = to_bytes(state)
    path = folder / f"checkpoint-{epoch:06d}-{step:08d}.pt"
    try:
        durable.replace(path, MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload, step="checkpoint")
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}; free some space and launch again, "
                              "training goes on from the checkpoint before it") from error
    for old in _newest_first(folder)[KEEP:]:
        old.unlink(missing_ok=True)


def load(folder: Path, device: str) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint, or None, and a note for every damaged one, which is renamed to `*.bad`."""
    notes: list[str] = []
    for path in _newest_first(folder):
        try:
            header, _, payload = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            continue
        if header == MAGIC + hashlib.sha256(payload).hexdigest().encode():
            return torch.load(io.BytesIO(payload), map_location=device, weights_only=True), notes
        notes.append(f"{path.name} is damaged; set aside as {path.name}.bad, going on from the one before it")
        path.replace(path.with_name(path.name + ".bad"))
    return None, notes


def clear(folder: Path) -> None:
    """Drops all checkpoints of a trial that needs none any more."""
    for path in _newest_first(folder):
        path.unlink(missing_ok=True)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)
