"""Talking to SLURM: its commands, its words, the sbatch text."""
