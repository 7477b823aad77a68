"""The methods that train: GA, FT, gradient difference, NPO."""
from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from .. import descent
from .base import Descended, Job


class Ascent(Descended):
    """GA: up the loss of the true answers, in the middle layer.

    A step sees all facts. The released code takes 25 epochs in batches of 64, which is 25 steps for
    50 facts and 400 for 1,000, in the last of the three layers on Llama and in layer 8 on Qwen.

    References
    ----------
    Jang et al. 2023.
    """

    name: ClassVar[str] = "ga"
    about: ClassVar[str] = "gradient ascent on the answers"
    label: ClassVar[str] = "GA"
    colour: ClassVar[str] = "#E69F00"


class FineTune(Descended):
    """FT: down the loss of end of text in the answers' place.

    It takes all its steps. The released code's FT differs as its GA does, and stops where the loss
    falls under 0.01.

    References
    ----------
    Zhu et al. 2020.
    """

    name: ClassVar[str] = "ft"
    about: ClassVar[str] = "fine-tuning towards end of text"
    label: ClassVar[str] = "FT"
    colour: ClassVar[str] = "#F0C808"
    goal: ClassVar[str] = "eos"
    sign: ClassVar[int] = -1

    lr: float = Field(5e-4, gt=0)


class GradDiff(Descended):
    """Gradient difference: GA, and down the loss of text to retain.

    Attributes
    ----------
    retain_weight : float
        Weight of the text to retain, against that of the answers.

    References
    ----------
    Liu et al. 2022.
    """

    name: ClassVar[str] = "graddiff"
    about: ClassVar[str] = "gradient ascent on the answers, descent on text to retain"
    label: ClassVar[str] = "GradDiff"
    colour: ClassVar[str] = "#999933"
    retains: ClassVar[bool] = True
    passes: ClassVar[int] = 2

    retain_weight: float = Field(1.0, ge=0)

    def rows(self, job: Job) -> tuple[list[descent.Row], list[float]]:
        """The answers' rows, and one for each text to retain, which counts downwards.

        Parameters
        ----------
        job : Job
            The facts to forget and, where they are given, the texts to retain.

        Returns
        -------
        tuple[list[descent.Row], list[float]]
            The rows, and the weight of each in the loss: means over facts and over texts.
        """
        rows, weights = super().rows(job)
        kept = descent.retain_rows(job.tokenizer, job.retain, job.seed)
        share = -self.retain_weight / len(kept)
        return rows + kept, weights + [share] * len(kept)


class Npo(Descended):
    """NPO: the frozen reference is the unedited model.

    Attributes
    ----------
    beta : float
        How sharply the preference against the unedited model tells.

    References
    ----------
    Zhang et al. 2024.
    """

    name: ClassVar[str] = "npo"
    about: ClassVar[str] = "negative preference optimisation"
    label: ClassVar[str] = "NPO"
    colour: ClassVar[str] = "#222222"
    passes: ClassVar[int] = 2

    beta: float = Field(0.1, gt=0)

    def preference(self) -> float | None:
        """β of the preference against the unedited model: the setting."""
        return self.beta
