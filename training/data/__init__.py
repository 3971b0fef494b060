"""Images to batches: order, decoding, crops, colors, masks."""
