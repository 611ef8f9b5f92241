"""Labelled images in memory or on disk, and checks that no image is in two sets that must be apart."""
