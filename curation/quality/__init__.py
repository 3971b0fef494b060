"""What is unusual about the images of a run: issues, counted and shown on a page."""
