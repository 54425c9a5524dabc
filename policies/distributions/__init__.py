"""Distributions over curves that can be conditioned and composed: a library, which the agent does not use."""
