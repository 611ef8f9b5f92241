"""Neighbours made while a training runs: another process fills a bounded store, the loop reads from it."""
