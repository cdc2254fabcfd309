"""Benchmarks: each compares ours with its baselines in one run. ``make bench`` runs all and prints tables."""
