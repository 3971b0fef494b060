"""The endpoints below ``/api``: each module lists its operations."""
