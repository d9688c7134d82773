"""Prove that a converted checkpoint is right, or say exactly what is wrong."""
