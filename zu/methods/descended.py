"""The methods that train: GA, FT, gradient difference, NPO."""
from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from .. import descent
from .base import Descended, Job


class Ascent(Descended):
    """GA (Jang et al. 2023): up the loss of the true answers, in the middle layer.

    A step sees all facts. The released code takes 25 epochs in batches of 64, which is 25 steps for
    50 facts and 400 for 1,000, in the last of the three layers on Llama and in layer 8 on Qwen.
    """

    name: ClassVar[str] = "ga"
    about: ClassVar[str] = "gradient ascent on the answers"
    label: ClassVar[str] = "GA"
    colour: ClassVar[str] = "#E69F00"


class FineTune(Descended):
    """FT (Zhu et al. 2020): down the loss of end of text in the answers' place.

    It takes all its steps. The released code's FT differs as its GA does, and stops where the loss
    falls under 0.01.
    """

    name: ClassVar[str] = "ft"
    about: ClassVar[str] = "fine-tuning towards end of text"
    label: ClassVar[str] = "FT"
    colour: ClassVar[str] = "#F0C808"
    goal: ClassVar[str] = "eos"
    sign: ClassVar[int] = -1

    lr: float = Field(5e-4, gt=0)


class GradDiff(Descended):
    """Gradient difference (Liu et al. 2022): GA, and down the loss of text to retain, with this weight."""

    name: ClassVar[str] = "graddiff"
    about: ClassVar[str] = "gradient ascent on the answers, descent on text to retain"
    label: ClassVar[str] = "GradDiff"
    colour: ClassVar[str] = "#999933"
    retains: ClassVar[bool] = True
    passes: ClassVar[int] = 2

    retain_weight: float = Field(1.0, ge=0)

    def rows(self, job: Job) -> tuple[list[descent.Row], list[float]]:
        rows, weights = super().rows(job)
        kept = descent.retain_rows(job.tokenizer, job.retain, job.seed)
        return rows + kept, weights + [-self.retain_weight / len(kept)] * len(kept)


class Npo(Descended):
    """NPO (Zhang et al. 2024): the frozen reference is the unedited model."""

    name: ClassVar[str] = "npo"
    about: ClassVar[str] = "negative preference optimisation"
    label: ClassVar[str] = "NPO"
    colour: ClassVar[str] = "#222222"
    passes: ClassVar[int] = 2

    beta: float = Field(0.1, gt=0)

    def preference(self) -> float | None:
        return self.beta
