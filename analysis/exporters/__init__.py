"""The tools that a study's trials are handed to, a module for each; `analysis.export` chooses among them."""
