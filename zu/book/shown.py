"""A table or figure with the tidy data behind it, which its page offers for download."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: The types under which a cell's output holds the data, and the controls of an interactive figure.
#: `book/_ext/book_page.py` turns them into a link, and into a place for `play.js`.
DATA, CONTROLS = "text/csv", "application/vnd.zu.play+json"


class Shown:
    """A figure or table that a cell shows, with its data in the same output.

    Attributes
    ----------
    what : Figure or pd.DataFrame
        The figure or table.
    data : pd.DataFrame
        One row per point, bar or cell.
    controls : dict, optional
        For an interactive figure, the data for `book/_static/play.js`.
    """

    def __init__(
        self, what: Figure | pd.DataFrame, data: pd.DataFrame, controls: dict | None = None
    ) -> None:
        self.what = what
        self.data = data
        self.controls = controls

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Jupyter's output: everything that `what` shows by itself, and the data as CSV."""
        from IPython.core.interactiveshell import InteractiveShell

        formatter = InteractiveShell.instance().display_formatter
        assert formatter is not None  # every shell has one
        bundle, about = formatter.format(self.what)
        more: dict[str, Any] = {DATA: self.data.to_csv(index=False)}
        if self.controls is not None:
            more[CONTROLS] = self.controls
        return bundle | more, about


def with_data(
    what: Figure | pd.DataFrame,
    data: pd.DataFrame | None = None,
    controls: dict | None = None,
) -> Shown:
    """A table or figure with its data: the last line of a cell that has a caption.

    The page's extension puts a link to the data below it, under the name of the table or figure.

    Parameters
    ----------
    what : Figure or pd.DataFrame
        What to show. A figure is closed, so that the cell does not show it twice.
    data : pd.DataFrame, optional
        The tidy data; for a table by default the table itself, with its index as columns.
    controls : dict, optional
        For an interactive figure, see `zu.book.play`.

    Returns
    -------
    Shown
        An object for the cell's last expression.

    Raises
    ------
    ValueError
        If a figure comes without data.
    """
    import pandas as pd

    if isinstance(what, pd.DataFrame):
        return Shown(what, what.reset_index() if data is None else data)
    if data is None:
        raise ValueError("a figure needs its data: with_data(figure, frame)")
    import matplotlib.pyplot as plt

    plt.close(what)
    return Shown(what, data, controls)
