"""The built-in job, image classification, with all that `jobs.contract` says a job may have; and its command line.

    python -m jobs.train config.json                                    # config.json: {"config": {"dataset": "digits", "epochs": 3}}
    python -m jobs.train config.json --budget 1 --out /tmp/try
    torchrun --nproc-per-node 2 -m jobs.train config.json
"""

if __name__ == "__main__":  # before torch is loaded, so that --help and a bad file are answered at once
    from jobs.alone import main

    raise SystemExit(main())

from jobs.fused import fuse_key, fused_is_faster, run_fused
from jobs.training import run, test, warm_up

__all__ = ["fuse_key", "fused_is_faster", "run", "run_fused", "test", "warm_up"]
