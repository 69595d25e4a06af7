"""Images: the packed store, episodes, archives and downloads."""
