"""Classifiers: networks, augmentations, their training, and which neighbours a baseline keeps."""
