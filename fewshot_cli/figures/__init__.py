"""Figures: for each the data it shows and how it is drawn."""
