"""The protocols of the suite, one module each: a stage that turns features into outcomes."""
