"""What travels, and how it is decoded and encoded: samples, pixels, masks, stroke paintings, clips."""
