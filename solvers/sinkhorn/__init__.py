"""Entropic transport by Sinkhorn iterations."""
