"""`doppel filter`: how much each stored neighbour counts."""
