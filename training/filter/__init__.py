"""`doppel filter`: weighs each stored neighbour."""
