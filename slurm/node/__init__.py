"""What runs on nodes: array tasks, gates, probes, ranks and evaluation jobs."""
