"""How classes lie in the features of an encoder, and whether that follows a taxonomy."""
