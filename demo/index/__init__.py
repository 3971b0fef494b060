"""An index of images by what a network sees in them: made by stages, read by `open_index`."""
