"""``--on slurm:PROFILE``, and the commands of runs on a cluster."""
