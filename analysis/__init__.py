"""The floor that reads finished studies: load -> statistics (frame to frame) -> draw (figure, frame) -> files.

It reads `trials.parquet` and `epochs.parquet` of a study folder and knows nothing of torch, Slurm or Nevergrad.
"""
