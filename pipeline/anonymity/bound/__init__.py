"""What the best of all attackers can do who holds the originals: a bound, from the noise alone."""
