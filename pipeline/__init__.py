"""doppel: stream image data sets through diffusion operators."""

__version__ = "0.1.0"
