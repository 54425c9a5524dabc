"""The implementation of the `semagram-tokens` command."""
