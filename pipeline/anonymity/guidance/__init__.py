"""Guidance away from the person: estimates on their way down are pushed by the gradients of recognisers."""
