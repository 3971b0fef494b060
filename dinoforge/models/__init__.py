"""The vision transformer and its weights on disk."""
