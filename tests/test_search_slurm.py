"""A search on a real Slurm, by a launcher that is a job: it proposes and chooses what it would have on one machine."""

from pathlib import Path

import pytest
from search_studies import SearchBench, Warm, warm  # noqa: F401
from slurm_fixture import Cluster, kill_controller
from slurm_studies import SlurmBench

TURNS = {"trials": 12, "wave": 2, "turns": True, "search": "running = 4", "more": "[confirm]\ntop = 2\nseeds = 2"}


@pytest.mark.slurm
def test_the_controller_is_killed_in_the_middle(tmp_path: Path, cluster: Cluster, warm: Warm) -> None:  # noqa: F811
    plain = SearchBench(tmp_path / "undisturbed", warm).search(**TURNS)  # type: ignore[arg-type]
    ended = plain.launch()
    assert ended.status == 0, ended.said

    site = SlurmBench(tmp_path / "slurm", cluster)
    study = SearchBench(site.folder).search(**TURNS)  # type: ignore[arg-type]
    site.environment["TOY_FOLDER"] = str(site.folder)
    held = site.folder / "held"
    held.touch()
    status, said = site.run("--detach")
    assert status == 0, said
    site.wait_for("trials/*/result.json", count=4)
    site.wait_for("trials/*/a000.jsonl", count=8)
    kill_controller(cluster)
    held.unlink()
    site.wait_for("trials/*/result.json", count=6)  # nobody can submit others now
    cluster.start("slurmctld")
    site.wait_for_queue(timeout_s=240)
    said = "\n".join(path.read_text() for path in sorted(study.store.submitit_folder.glob("launcher-*.log")))
    assert study.store.table_file("trials").exists(), said
    assert study.proposed() == plain.proposed() and study.decisions() == plain.decisions(), said
    assert study.tables() == plain.tables()  # so the winner is the same, and what the test split says of it
    assert all(len(numbers) == 1 for numbers in site.submissions().values())
    opened = sum(row["test_opened"] is not None for row in study.rows("attempts"))
    assert opened == sum(row["test_opening"] == 1 for row in study.rows()) > 0
