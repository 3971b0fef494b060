"""The protocols of the suite, one module each: a stage that turns features into outcomes.

A login node without torch imports them to plan: what needs torch is imported in ``measure``.
"""
