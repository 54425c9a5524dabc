"""Compile goals, wishes, examples and rewards into guidance (`worldmodel.guidance`), keep it on disk, and fit it."""
