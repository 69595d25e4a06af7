"""The packed image store, safe archives and downloads, and one file a dataset."""
