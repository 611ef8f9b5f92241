"""Faces: found, cut, recognised, and kept as a table that can be searched."""
