"""policies/planner_link/: a planner in a separate process, on this or another machine, and the client that asks it."""
