"""configs/codec/: what `semagram-tokens` does."""
