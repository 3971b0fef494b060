"""The demo: ask images, and parts of images, what the network sees."""
