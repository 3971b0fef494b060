"""The evaluation of dinoforge: one module a protocol; every figure is a record."""
