"""`doppel train-denoiser`: a diffusion model on any configured data set."""
