"""envs/benchmark/: what results are worth. Returns beside published anchors: statistics, tables, figures."""
