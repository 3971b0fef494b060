"""The evaluation of dinoforge: one module per protocol; every figure is a record."""
