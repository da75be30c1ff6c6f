"""The bottom floor: trains one configuration once. Knows nothing of studies, Slurm, Nevergrad or Parquet."""
