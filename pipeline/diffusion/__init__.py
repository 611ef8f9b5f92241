"""Tensors in, tensors out: levels, denoisers, solvers and the one loop.

All of it works in σ-space, `x = x0 + σ·ε`.
"""
