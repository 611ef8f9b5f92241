"""Tiles of images: their shapes, which goes where, and pictures laid out of them."""
