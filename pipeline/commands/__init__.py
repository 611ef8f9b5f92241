"""What only one command does."""
