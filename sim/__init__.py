"""sim/: MuJoCo scenes, fast rendering and a simulated arm. Empty until the arm arrives."""
