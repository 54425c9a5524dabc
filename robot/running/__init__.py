"""robot/running/: runs a policy on an arm at a fixed rate, planning the next curve while the current one runs."""
