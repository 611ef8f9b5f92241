"""The parts of doppel that belong to one command each."""
