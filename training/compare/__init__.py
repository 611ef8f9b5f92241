"""`doppel compare`: classifiers trained with and without neighbours, and what their difference can show."""
