"""The laboratory: many evaluations side by side, and searches of options."""
