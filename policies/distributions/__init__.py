"""Distributions over curves that can be conditioned and composed: a library that the agent does not use."""
