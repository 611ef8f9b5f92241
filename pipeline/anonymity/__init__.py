"""Faces, what recognises them, and the evidence that it no longer does."""
