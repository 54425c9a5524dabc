"""Action tokens: curves, the vocabulary, its notation, its playback."""
