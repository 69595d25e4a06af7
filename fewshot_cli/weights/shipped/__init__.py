"""The weights that this package brings, with their sidecars."""
