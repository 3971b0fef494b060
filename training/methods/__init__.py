"""What is trained: networks, targets and losses of each method, which the loop does not know."""
