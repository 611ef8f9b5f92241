"""`doppel compare`: classifiers with and without neighbours, and what the difference can show."""
