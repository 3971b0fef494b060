"""Maps of the attention of the class token on the patches, as pictures and as masks."""
