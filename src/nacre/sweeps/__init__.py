"""Sweeps: many runs, of experiments with several values and seeds, checked as a whole and run in parallel."""
