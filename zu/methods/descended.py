"""The methods that train: GA, FT, gradient difference, NPO."""
from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field, field_validator

from .. import descent
from ..wording import check_goal
from .base import Descended, Job


class Ascent(Descended):
    """GA: up the loss of the true answers, in the middle layer.

    A step sees all facts unless `batch` says otherwise. The released code takes 25 epochs in
    batches of 64, which is 25 steps for 50 facts and 400 for 1,000, in the last of the three layers
    on Llama and in layer 8 on Qwen: see profiles/released.yaml.

    References
    ----------
    Jang et al. 2023.
    """

    name: ClassVar[str] = "ga"
    about: ClassVar[str] = "gradient ascent on the answers"
    label: ClassVar[str] = "GA"
    colour: ClassVar[str] = "#E69F00"


class FineTune(Descended):
    """FT: down the loss of another text in the answers' place, by default end of text.

    It takes all its steps unless `stop` says otherwise: the released code's FT stops where the loss
    falls under 0.01.

    Attributes
    ----------
    goal : str
        What the model should say instead of the answer: "eos", the end of the text, or any text,
        such as "I do not know".

    References
    ----------
    Zhu et al. 2020.
    """

    name: ClassVar[str] = "ft"
    about: ClassVar[str] = "fine-tuning towards end of text"
    label: ClassVar[str] = "FT"
    colour: ClassVar[str] = "#F0C808"
    sign: ClassVar[int] = -1

    goal: str = Field("eos", description="what the model should say instead of the answer")
    lr: float = Field(5e-4, gt=0)

    @field_validator("goal")
    @classmethod
    def _some_goal(cls, given: str) -> str:
        """A goal that says something."""
        check_goal(given)
        return given

    def trained(self) -> str:
        """The goal."""
        return self.goal


class GradDiff(Descended):
    """Gradient difference: GA, and down the loss of text to retain.

    Attributes
    ----------
    retain : sequence of str, optional
        The text to retain; by default some of the embedded prose. No record holds it.
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
    passes: ClassVar[int] = 2

    retain: tuple[str, ...] | None = Field(None, exclude=True, repr=False)
    retain_weight: float = Field(1.0, ge=0)

    def objective(self, job: Job) -> descent.Objective:
        """The answers' rows, and one for each text to retain, which counts downwards.

        Parameters
        ----------
        job : Job
            The facts to forget.

        Returns
        -------
        descent.Objective
            The loss is the mean over facts, less the weighted mean over texts.
        """
        answers = super().objective(job)
        kept = descent.retain_rows(job.tokenizer, self.retain, self.seed)
        n, k = len(answers.rows), len(kept)
        rows = [*answers.rows, *kept]
        weights = [*answers.weights, *[-self.retain_weight / k] * k]
        order = list(range(n + k))
        if self.batch:  # each batch has its share of both
            order.sort(key=lambda i: (i + 0.5) / n if i < n else (i - n + 0.5) / k)
        return replace(
            answers, rows=[rows[i] for i in order], weights=[weights[i] for i in order]
        )


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

    def objective(self, job: Job) -> descent.Objective:
        """The answers' rows, with the preference against the unedited model.

        Parameters
        ----------
        job : Job
            The facts to forget.

        Returns
        -------
        descent.Objective
            A row a fact; the loss is their mean.
        """
        return replace(super().objective(job), beta=self.beta)
