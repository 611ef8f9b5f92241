"""`doppel train-denoiser`: trains a diffusion model on any configured data set."""
