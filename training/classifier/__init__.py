"""Classifiers: networks, augmentations, one fit, and which neighbours a baseline keeps."""
