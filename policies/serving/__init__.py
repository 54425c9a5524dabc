"""policies/serving/: a planner in a separate process, on this or another machine, and the link to it."""
