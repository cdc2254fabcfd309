"""Benchmarks: every operator against its peers, in one run. ``make bench`` runs them and prints one table."""
