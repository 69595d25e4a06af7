"""The tables of the three papers and what runs them."""
