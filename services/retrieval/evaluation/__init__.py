"""How good search and gate are, measured on a labelled set with the code and the encoder that are shipped."""
