"""Models behind one small protocol; the only place that imports diffusers' networks."""
