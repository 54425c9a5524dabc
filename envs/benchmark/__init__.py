"""Benchmark results compared with published returns (anchors): statistics, tables and figures."""
