"""Commands on one backbone: write it for other libraries, draw what it attends to."""
