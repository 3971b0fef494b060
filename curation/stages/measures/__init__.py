"""What conditions compare beyond the facts: scores of images, data beside them."""
