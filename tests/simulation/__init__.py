"""A seeded simulation of one partition: writers, clients, a broker, and everything that breaks.

`python -m tests.simulation SEED` replays one run with a trace; `--runs N` runs many.
"""
