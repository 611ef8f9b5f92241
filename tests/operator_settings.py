"""For every operator, settings that reach its corners; the contract test runs over all of them."""

from typing import Any

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "boomerang": [
        {},
        {"t_boom": [0.1, 0.9], "steps": 3, "solver": "dpmpp_2m_sde"},
        {"t_boom": {"sigma": 0.7}, "steps": 1, "solver": "euler"},
        {"t_boom": {"log_snr": [-2, 2]}, "steps": 2, "solver": "heun", "spacing": "karras"},
        {"t_boom": 0.0, "steps": 4, "spacing": "linspace"},
        {"t_boom": 1.0, "steps": 5, "solver": "dpmpp_2m", "spacing": "leading"},
        {"t_boom": 0.5, "eta": 0.3, "spacing": "model"},
        {"label": "b", "guidance": {"scale": 3, "rescale": 0.7, "interval": {"sigma": [0.1, 2]}, "negative": 2}},
    ],
    "anagram": [
        {"views": ["identity", "rotate_180"], "conditions": ["a", "b"], "steps": 3},
        {
            "views": ["identity", {"name": "pixel_permutation", "seed": 3}, "negate"],
            "conditions": ["own", "none", 2],
            "reduce": "alternate",
            "steps": 4,
            "start": [0.3, 1.0],
        },
        {"views": ["skew"], "conditions": ["own"], "guidance": 1, "steps": 1, "solver": "heun"},
        {"views": ["identity", "flip_vertical"], "conditions": ["a", "b"], "start": 0.0, "steps": 2},
    ],
    "factorized": [
        {"components": "hybrid", "conditions": ["a", "b"], "steps": 3},
        {"components": {"kind": "triple", "sigmas": [1, 9]}, "conditions": ["a", "own", 2], "steps": 2},
        {"components": "colour", "conditions": ["a", "b"], "inverse": "grey", "steps": 3, "solver": "dpmpp_2m_sde"},
        {"components": {"kind": "motion", "kernel": 3}, "conditions": ["a", "none"], "start": [0.2, 0.9], "steps": 1},
        {"components": "spatial", "conditions": ["a", "b"], "inverse": "outside", "steps": 2, "solver": "heun"},
        {"components": "hybrid", "conditions": ["a", "b"], "inverse": "low", "start": 0.0, "steps": 2},
    ],
    "sdedit": [
        {},
        {"t0": [0.2, 0.8], "repeats": 3, "steps": 3, "solver": "dpmpp_2m_sde"},
        {"t0": {"sigma": 0.7}, "steps": 1, "solver": "euler"},
        {"t0": 0.0, "repeats": 2, "steps": 4},
        {"t0": 1.0, "steps": 2, "solver": "heun", "label": "b", "guidance": 3},
    ],
    "inpaint": [
        {"steps": 6, "jump_length": 2, "resamples": 3},
        {"steps": 1, "resamples": 1, "label": 1},
        {"steps": 5, "jump_length": 4, "resamples": 2, "known_noise": "shared", "solver": "dpmpp_2m"},
        {"steps": 4, "jump_length": 1, "resamples": 2, "solver": "heun", "label": "a", "guidance": 2},
    ],
    "ilvr": [
        {},
        {"factor": 3, "floor": 0.3, "steps": 4, "solver": "dpmpp_2m_sde"},
        {"factor": 12, "floor": {"sigma": [0.1, 2]}, "steps": 1},
        {"factor": 2, "floor": 1.0, "steps": 3, "solver": "euler", "label": "c", "guidance": 2},
    ],
    "enhance": [
        {},
        {"factor": 3, "t_boom": [0.2, 0.8], "consistent": False, "steps": 3, "solver": "heun"},
        {"factor": 12, "t_boom": {"log_snr": 1}, "steps": 1},
        {"factor": 2, "t_boom": 1.0, "steps": 2, "label": "b", "guidance": 2},
    ],
}
