"""Pictures of where an edit moves what a layer says, and the measures behind them as tables."""
from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable


def digest(functions: Iterable[Callable]) -> str:
    """A hash of what functions do: of their code, whatever their comments and docstrings say.

    Parameters
    ----------
    functions : iterable of callable
        Each with a source of its own.

    Returns
    -------
    str
        16 hexadecimal digits, the same for two lists that differ only in comments, docstrings,
        line breaks and the functions' order.
    """
    codes = []
    for function in functions:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        for part in ast.walk(tree):
            if isinstance(part, ast.FunctionDef) and ast.get_docstring(part) is not None:
                del part.body[0]
        codes.append(ast.unparse(tree))
    return hashlib.sha256("\n".join(sorted(codes)).encode()).hexdigest()[:16]
