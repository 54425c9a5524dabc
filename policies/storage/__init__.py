"""Storage on disk: atomically replaced files, folders with checksums, checkpoints."""
