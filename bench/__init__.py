"""Benchmarks of the package against baselines, measured in the same run. ``make bench`` runs them and prints tables."""
