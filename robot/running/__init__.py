"""robot/running/: a policy on an arm at a fixed rate, the next curve planned while the current one runs."""
