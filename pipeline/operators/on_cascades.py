"""Operators on cascades: which stage does what.

The operator runs at the first stage, on the image scaled down, and again at each pixel stage above, on the image in
the size of that stage, conditioned on the pixels of the stage below. Stages of latents, and all stages above an
operator that carries a latent or a partner, sample from noise what they enlarge, under the condition that it shows.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.diffusion.cells import to_cells
from pipeline.diffusion.model import Model, Outline
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import Noise, add_noise, integrate
from pipeline.diffusion.tiles.assembling import on_each
from pipeline.errors import UserError
from pipeline.models.cascade import Cascade, CascadeSketch, shrunk
from pipeline.models.stage import Stage
from pipeline.operators.conditions import NO_GUIDANCE, Guidance, check_conditions, joint
from pipeline.operators.contract import Given, Operator, Transformed


def check(operator: Operator, model: Outline, second: Outline | None) -> None:
    """Checks the operator against every stage that it runs on; the others must know the conditions that they are to
    sample.

    Raises `UserError` where a stage can't do its part, or a second model has other stages.
    """
    if not isinstance(model, CascadeSketch):
        if isinstance(second, CascadeSketch):
            raise UserError("second_model has upscalers, and the model has none: both are cascades, or neither is")
        operator.check(model, second)
        return
    partner = second if isinstance(second, CascadeSketch) else None
    operator.check(model.first, partner.first if partner else second)
    for i, stage in enumerate(model.stages):
        if not runs_on(operator, stage):
            check_conditions(stage, operator.conditions_used() or ["none"], guidance_of(operator))
        elif second is not None and (partner is None or len(partner.stages) != len(model.stages)):
            raise UserError(f"{operator.name}: second_model needs {len(model.stages)} upscalers, as the model has")
        else:
            operator.check(stage, partner.stages[i] if partner else None)


def through(operator: Operator, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
    """Runs the operator on any model: `z` is what `model.encode` made, all else has the size of the model (of its last
    stage).

    On a cascade, `sigmas` are those of the first stage, and `details` those of the last one that the operator ran on,
    as are views and components in `others`, enlarged where stages come above it.
    """
    if not isinstance(model, Cascade):
        return operator(model, z, given, noise)
    partner = given.second if isinstance(given.second, Cascade) else None
    small = replace(scaled(given, model.first.size), second=partner.first if partner else given.second)
    done = operator(model.first, z, small, noise)
    for i, stage in enumerate(model.stages):
        if runs_on(operator, stage):
            done = again(operator, stage, partner.stages[i] if partner else None, done, given, noise)
        else:
            done = sampled(operator, stage, done, given, noise)
    return done


def runs_on(operator: Operator, stage: Outline) -> bool:
    """Whether the operator itself runs on this upper stage; else the stage samples from noise."""
    return stage.space == "pixel" and not operator.first_stage_only


def again(
    operator: Operator, stage: Stage, partner: Stage | None, done: Transformed, given: Given, noise: KeyedNoise
) -> Transformed:
    """Runs the operator on an upper stage, conditioned on what it has made below. Its images have the size of the
    stage.
    """
    images = [done.pixels, *done.others.values()] if operator.further_go_up else [done.pixels]
    low, drawn = torch.cat(images), blockwise(noise, len(done.pixels))
    model, own = stage.on(low, drawn), scaled(given, stage.size)
    if partner is not None:
        own = replace(own, second=partner.on(low, drawn))
    assert own.pixels is not None
    return operator(model, model.encode(own.pixels), own, noise)._replace(sigmas=done.sigmas)


def sampled(operator: Operator, stage: Stage, done: Transformed, given: Given, noise: KeyedNoise) -> Transformed:
    """Enlarges from noise what the stages below have made. All images of a sample share their noise, so that they stay
    alike.
    """
    goes = operator.further_go_up
    further = {**done.others, **done.beside} if goes else {}
    names, count = ["", *further], len(done.pixels)
    low = torch.cat([done.pixels, *further.values()])
    model = stage.on(low, repeating(noise, count))
    z = torch.zeros(count, len(names), *stage.shape, device=low.device)
    walk = operator.enlarging()
    estimate = joint(model, [operator.shows(name) for name in names], guidance_of(operator), given, z)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.stack(list(estimate(x.unbind(1), sigma)), 1)

    def alike(like: Tensor) -> Tensor:
        return noise(like[:, 0])[:, None].expand_as(like)

    sigmas = walk.schedule(model, model.levels.sigma(torch.ones(count, dtype=torch.float64, device=low.device)))
    x = add_noise(z, sigmas[:, 0], alike)
    x = integrate(denoise, x, sigmas.to(z), solver=walk.stepper(), noise=alike)
    made = dict(zip(names, on_each(model.decode, x).unbind(1), strict=True))
    pixels = made[""]
    if given.mask is not None and given.pixels is not None and operator.keeps_unmasked:
        own = scaled(given, stage.size)
        assert own.mask is not None
        assert own.pixels is not None
        pixels = torch.where(own.mask < 0.5, own.pixels, pixels)
    others = {name: made[name] if goes else enlarged(image, stage.size) for name, image in done.others.items()}
    beside = {name: made[name] if goes else enlarged(image, stage.size) for name, image in done.beside.items()}
    return done._replace(pixels=pixels, others=others, beside=beside)


def scaled(given: Given, size: tuple[int, int]) -> Given:
    """What is given, in another size `(height, width)`: images by means of areas; a place of the mask is to change
    where any of its pixels is.
    """
    image = None if given.pixels is None else shrunk(given.pixels, size)
    guides = [shrunk(guide, size) for guide in given.guides]
    mask = None if given.mask is None else to_cells(given.mask, given.mask.new_empty(size))
    return replace(given, pixels=image, mask=mask, guide=guides[0] if guides else None, more_guides=guides[1:])


def enlarged(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images `[B, 3, h, w]` in a larger size `(height, width)`, bilinear."""
    return interpolate(images, size=size, mode="bilinear")


def guidance_of(operator: Operator) -> Guidance:
    """The guidance that upper stages sample with: the operator's, where it has one that all its images share."""
    guidance = getattr(operator, "guidance", NO_GUIDANCE)
    return guidance if isinstance(guidance, Guidance) else NO_GUIDANCE


def blockwise(noise: Noise, count: int) -> Noise:
    """Noise for several images of each of `count` samples, image by image, fresh for each."""
    return lambda like: torch.cat([noise(block) for block in like.split(count)])


def repeating(noise: Noise, count: int) -> Noise:
    """Noise for several images of each of `count` samples, the same for each image of a sample."""
    return lambda like: noise(like[:count]).repeat(len(like) // count, *[1] * (like.ndim - 1))
