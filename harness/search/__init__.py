"""The search of a study: the space, what proposes in it, and what is decided from wave to wave."""
