"""configs/suites/: many runs: a benchmark, its workers, its table, and other agents beside ours."""
