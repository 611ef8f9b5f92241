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
        {"condition": "b", "guidance": {"scale": 3, "rescale": 0.7, "interval": {"sigma": [0.1, 2]}, "negative": 2}},
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
        {"t0": 1.0, "steps": 2, "solver": "heun", "condition": "b", "guidance": 3},
    ],
    "inpaint": [
        {"steps": 6, "jump_length": 2, "resamples": 3},
        {"steps": 1, "resamples": 1, "condition": 1},
        {"steps": 5, "jump_length": 4, "resamples": 2, "known_noise": "shared", "solver": "dpmpp_2m"},
        {"steps": 4, "jump_length": 1, "resamples": 2, "solver": "heun", "condition": "a", "guidance": 2},
    ],
    "ilvr": [
        {},
        {"factor": 3, "floor": 0.3, "steps": 4, "solver": "dpmpp_2m_sde"},
        {"factor": 12, "floor": {"sigma": [0.1, 2]}, "steps": 1},
        {"factor": 2, "floor": 1.0, "steps": 3, "solver": "euler", "condition": "c", "guidance": 2},
    ],
    "enhance": [
        {},
        {"factor": 3, "t_boom": [0.2, 0.8], "consistent": False, "steps": 3, "solver": "heun"},
        {"factor": 12, "t_boom": {"log_snr": 1}, "steps": 1},
        {"factor": 2, "t_boom": 1.0, "steps": 2, "condition": "b", "guidance": 2},
    ],
    "ddib": [
        {"target": 1, "steps": 3},
        {"source": "none", "target": 2, "steps": 1, "round_trip": True, "lift": 0.1},
        {"source": "a", "target": 2, "steps": 2, "solver": "dpmpp_2m", "guidance": {"scale": 2, "rescale": 0.5}},
        {"level": 0.0, "steps": 2, "solver": "euler"},
        {
            "level": [0.2, 1.0],
            "steps": 3,
            "spacing": "linspace",
            "image": [{"name": "blur", "sigma": 1}, {"name": "rotate", "degrees": 30}],
            "latent": [
                {"name": "normalise"},
                {"name": "normalise", "over": "channel"},
                {"name": "scale", "factor": 1.1},
                {"name": "noise", "amount": 0.3, "seed": 2},
                {"name": "blend", "share": 0.2},
                {"name": "checkerboard", "square": 3},
                {"name": "checkerboard", "square": 5, "other": "noise"},
                {"name": "blur", "sigma": 0.5},
                {"name": "rotate", "degrees": -10, "interpolation": "nearest"},
            ],
        },
    ],
    "compose": [
        {"terms": [{"condition": "own"}], "steps": 3},
        {
            "terms": [{"condition": 0, "weight": 2}, {"condition": 1, "weight": -0.5}],
            "steps": 2,
            "start": [0.3, 0.9],
            "solver": "heun",
        },
        {"terms": [{"condition": "own", "weight": 1}], "steps": 1, "start": 0.0},
    ],
    "interpolate": [
        {"steps": 3},
        {"share": [0.2, 0.9], "towards": "b", "steps": 2, "path": 3, "solver": "dpmpp_2m"},
        {"share": 1, "condition": "a", "towards": "none", "level": 0.0, "steps": 1},
        {"share": 0, "level": [0.4, 0.8], "steps": 2, "guidance": 2, "path": 1, "lift": 0.2},
    ],
    "tile_morph": [
        {"conditions": ["a", "b"], "tiles": 3, "steps": 3},
        {
            "conditions": ["own", "none", 2],
            "tiles": {"count": 2, "flips": True, "turns": True},
            "rollout": 2,
            "steps": 2,
        },
        {"conditions": ["a"], "tiles": "pixels", "source": "image", "steps": 1, "solver": "heun"},
        {"conditions": ["a", "b"], "tiles": "rings", "match": "gradient", "match_from": [0.2, 0.9], "steps": 3},
        {
            "conditions": ["b", "c"],
            "tiles": {"shape": "irregular", "count": 3},
            "source": "image",
            "repeats": "unlimited",
            "match_from": 0.0,
            "steps": 2,
            "solver": "dpmpp_2m_sde",
        },
    ],
    "mosaic": [
        {"tiles": 4},
        {"tiles": {"count": 3, "turns": True}, "tiles_of": "guide", "repeats": 2, "match": "gradient"},
        {"tiles": {"shape": "rings", "count": 3, "flips": True}},
    ],
}

TEXT_SETTINGS: dict[str, list[dict[str, Any]]] = {
    "pairs": [
        {"copies": 2, "steps": 3},
        {"share": [0, 1], "guidance": [1, 3], "maps": "both", "mode": "replace", "steps": 1, "solver": "heun"},
        {"maps": "self", "thresholds": {"images": 0.5}, "keep": 1, "steps": 2, "solver": "dpmpp_2m_sde"},
    ],
    "prompt_to_prompt": [
        {"steps": 3},
        {"source": "a cat", "target": "a dog", "mode": "replace", "start": [0.2, 0.8], "steps": 2, "solver": "heun"},
        {"reweight": {"cat": 2}, "cross_share": 1, "self_share": 0.0, "steps": 2, "solver": "ancestral", "guidance": 1},
        {"source": "none", "target": "own", "invert": True, "steps": 3, "guidance": {"scale": 2, "negative": "a cat"}},
    ],
}
"""Of operators that edit attention to the words of prompts."""
