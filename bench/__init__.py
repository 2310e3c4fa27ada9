"""Benchmarks: each measure runs Tidelog and a peer side by side and prints their ratio."""
