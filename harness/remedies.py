"""What to do about a trial that failed, as a sentence and a command, by its cause."""

import shlex
from dataclasses import dataclass

from harness.named import shown
from harness.overview import Overview, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Remedy:
    """One thing to do."""

    text: str
    command: str = ""
    """To be copied whole; "" where there is none."""


def remedies(overview: Overview, record: Record) -> list[Remedy]:
    """What to do about a trial.

    Args:
        record: its last attempt.
    """
    again = overview.launch_command("--retry")
    cause, error = record.cause or "lost", record.error or ""
    wanted = overview.grid.slurm if overview.grid else None
    on_slurm = overview.on_slurm(record.worker) and wanted is not None
    if "harness.stage" in error:
        stage = shlex.join(["python", "-m", "harness.stage", shown(overview.store.grid_file)])
        return [Remedy(text="fetch what is missing, where there is internet", command=stage), Remedy(text="then try again", command=again)]
    if cause == "exception":
        return [Remedy(text="mend the code or the grid, then let today's code try again",
                             command=overview.launch_command("--retry", "--update-code"))]
    if cause == "out_of_memory" and on_slurm and wanted and "CUDA" not in error:
        now = f"{wanted.mem_gb} GB" if wanted.mem_gb else "the site's default"
        more = 2 * wanted.mem_gb if wanted.mem_gb else 16
        return [Remedy(text=f"ask for more memory than [slurm] mem_gb = {wanted.mem_gb} ({now} per node)",
                       command=overview.launch_command("--set", f"slurm.mem_gb={more}", "--retry"))]
    if cause == "out_of_memory":
        memory = "GPU" if "CUDA" in error else "machine"
        return [Remedy(text=f"the {memory}'s memory is too small even for smaller pieces of the batch: another {memory}, or less in "
                                  "the grid (image_size, batch_size, a smaller network); then try again", command=again)]
    if cause == "time_limit" and wanted:
        return [Remedy(text=f"give it more time than [slurm] time_min = {wanted.time_min}; it goes on from its checkpoint",
                       command=overview.launch_command("--set", f"slurm.time_min={2 * wanted.time_min}", "--retry"))]
    if cause == "disk_full":
        return [Remedy(text="free some space, then try again", command=again)]
    if cause == "cancelled":
        return [Remedy(text="somebody took it back; to have it after all", command=again)]
    if cause in ("node_failure", "preempted"):
        return [Remedy(text="the cluster ended it; try again, from its checkpoint", command=again)]
    hint = ("something killed it without a word, most often for its memory" + (": [slurm] mem_gb" if on_slurm else "")
            if cause == "killed" else "its worker was gone without a word")
    return [Remedy(text=f"{hint}; try again", command=again)]
