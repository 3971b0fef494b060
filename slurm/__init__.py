"""SLURM jobs of dinoforge: stages are known here by their contract, never by name."""
