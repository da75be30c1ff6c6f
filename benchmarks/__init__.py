"""Measurements side by side with what people do today; each module is one command. See benchmarks/README.md."""
