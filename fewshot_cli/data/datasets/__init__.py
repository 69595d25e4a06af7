"""One file for each dataset: a public archive becomes a packed store."""
