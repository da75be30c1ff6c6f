"""What submitit alone does with as many jobs, for benchmarks/launch.py: prints seconds as JSON.

    python -m benchmarks.by_submitit {map_array|submit} COUNT FOLDER
"""

import json
import sys
import time
from pathlib import Path

from benchmarks import on_slurm


def nothing(number: int) -> int:
    """What the jobs would run, if they ever started."""
    return number


def main(how: str, count: int, folder: Path) -> None:
    """Submits so many jobs that never start, as submitit's documentation shows."""
    import submitit

    executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
    executor.update_parameters(timeout_min=10, slurm_partition="main", slurm_additional_parameters={"begin": on_slurm.NEVER})
    began = time.perf_counter()
    if how == "map_array":
        executor.map_array(nothing, list(range(count)))
    else:
        for number in range(count):
            executor.submit(nothing, number)
    print(json.dumps({"submitted": time.perf_counter() - began}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
