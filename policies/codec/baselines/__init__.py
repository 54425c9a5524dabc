"""policies/codec/baselines/: the codes that ours is compared with, refitted on the same chunks."""
