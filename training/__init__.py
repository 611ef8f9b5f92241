"""Training for doppel: denoisers (and, later, classifiers) on any configured data set."""
