"""configs/suites/: benchmarks of many runs, with their workers and tables, and comparisons with other agents."""
