"""The stages of an evaluation, one module each."""
