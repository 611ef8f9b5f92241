"""doppel: stream image data sets through diffusion operators."""
