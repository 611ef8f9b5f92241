"""Labelled images in memory or on disk, and who must not be in both of two sets."""
