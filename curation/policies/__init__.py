"""The decisions of the curation as pure functions: arrays in, arrays out, no files.

Every result is a function of the data alone: permuting the input permutes the output, and how
the pairs or candidates were split over partitions does not matter.
"""
