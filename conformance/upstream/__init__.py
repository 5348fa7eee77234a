"""What is broken upstream, in which versions, and whether a run without the shim is red there and nowhere else."""
