"""The ``dinoforge`` command: one module a sub-command; heavy imports live inside functions."""
