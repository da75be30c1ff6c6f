"""The names that `[search] algorithm` may have."""

ALGORITHMS: tuple[str, ...] = ("auto", "RandomSearch", "ScrHammersleySearch", "NGOpt")
