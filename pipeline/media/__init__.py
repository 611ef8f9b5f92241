"""What travels through a job, and how it is decoded and encoded: samples, pixels, masks, stroke paintings, clips."""
