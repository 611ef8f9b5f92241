"""Attacks on a release, by whoever holds other photographs (T1) or the very ones (T2); and what it is good for."""
