"""Action tokens: their curves, the vocabulary, its JSON notation and its playback."""
