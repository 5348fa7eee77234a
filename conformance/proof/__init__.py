"""That the suite sees: faults planted on purpose, each to be caught by the check that owns it, run after run."""
