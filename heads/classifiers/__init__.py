"""Classifiers for supervised training: linear layers, multiple proxies and their rivals."""
