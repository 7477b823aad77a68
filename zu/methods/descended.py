"""The methods that train: GA, FT, gradient difference, NPO, SimNPO."""
from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field, field_validator

from .. import descent
from ..wording import check_goal
from .base import Descended, Job


class Ascent(Descended):
    """GA: gradient ascent on the loss of the true answers, in the middle layer.

    A step sees all facts unless `batch` says otherwise. The released code trains for 25 epochs in
    batches of 64, that is 25 steps for 50 facts and 400 for 1,000. It changes the last of the three
    layers on Llama and layer 8 on Qwen: see profiles/released.yaml.

    References
    ----------
    Jang et al. 2023.
    """

    name: ClassVar[str] = "ga"
    about: ClassVar[str] = "gradient ascent on the answers"
    label: ClassVar[str] = "GA"
    colour: ClassVar[str] = "#E69F00"


class FineTune(Descended):
    """FT: gradient descent on the loss of another text in the answers' place, by default the end.

    It takes all its steps unless `stop` says otherwise. The released code's FT stops once the loss
    falls below 0.01.

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
        """A goal that is not empty."""
        check_goal(given)
        return given

    def trained(self) -> str:
        """The text that is trained: the goal."""
        return self.goal


class GradDiff(Descended):
    """Gradient difference: GA, and gradient descent on the loss of text to retain.

    Attributes
    ----------
    retain : sequence of str, optional
        The texts to retain, each cut to its first 64 tokens; by default some of the embedded prose.
        Records do not hold them.
    retain_weight : float
        The weight of the text to retain, relative to that of the answers.

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
        """The answers' rows, and one row per text to retain, whose loss should fall.

        Parameters
        ----------
        job : Job
            The facts to forget.

        Returns
        -------
        descent.Objective
            The descent raises the mean loss over facts minus the weighted mean loss over texts.
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
    """NPO: negative preference optimisation, with the unedited model as the frozen reference.

    Attributes
    ----------
    beta : float
        The inverse temperature of the preference.

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
            One row per fact; the loss is their mean.
        """
        return replace(super().objective(job), beta=self.beta)


class SimNpo(GradDiff):
    """SimNPO: negative preference optimisation without a reference, and text to retain.

    The loss is the mean over facts of −(2/β) log σ(−(β/|y|) log p(y|x) − γ), with the answer y of
    |y| tokens to the prompt x, plus retain_weight times the mean loss of the text to retain. The
    answer's length takes the place of NPO's frozen model: long answers are pushed no harder than
    short ones, and an answer that is unlikely already is left alone.

    β and γ are those of the released run on TOFU's forget05, which weighs the text to retain seven
    times as much as we do. On purpose otherwise than there: one projection is trained rather than
    all weights, all facts share a step as in the other descents here, and Adam has no weight decay.
    Steps and rate are GA's.

    Attributes
    ----------
    beta : float
        The inverse temperature of the preference.
    gamma : float
        The margin: with more of it, answers are pushed further down.

    References
    ----------
    Fan et al. 2024, arXiv 2410.07163.
    """

    name: ClassVar[str] = "simnpo"
    about: ClassVar[str] = "length-normalised NPO without a reference, and text to retain"
    label: ClassVar[str] = "SimNPO"
    colour: ClassVar[str] = "#6A3D9A"

    beta: float = Field(2.5, gt=0)
    gamma: float = Field(0.0, ge=0)

    def objective(self, job: Job) -> descent.Objective:
        """The rows of gradient difference, with SimNPO's preference on the answers.

        Parameters
        ----------
        job : Job
            The facts to forget.

        Returns
        -------
        descent.Objective
            One row per fact and one per text to retain.
        """
        return replace(super().objective(job), beta=self.beta, margin=self.gamma)
