"""Hooks for training loops: neighbours made on the spot, or read from what an offline job has stored."""
