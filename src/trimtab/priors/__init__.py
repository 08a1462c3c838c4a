"""Frozen video models, one file each; none knows another, nor any adapter."""
