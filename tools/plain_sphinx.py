"""The book by plain Sphinx and MyST-NB, from the same sources as jupyter-book's, without it.

`python tools/plain_sphinx.py SITE OUT` renders the folder that `make book` has put together
(build/site: executed chapters, plain pages, _config.yml, _toc.yml, references.bib, _static, _ext)
into OUT/html. `make sphinx` calls it. It knows the settings of _config.yml that the book uses, and
fails for any others, so that nothing is silently left out.
"""
from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

#: jupyter-book's own extensions, which only it needs: for its name, and for LaTeX.
ITS_OWN = {"jupyter_book", "sphinx_jupyterbook_latex"}
#: What _config.yml calls a setting, and what Sphinx or an extension does.
NAMES = {
    "title": "html_title", "author": "author", "copyright": "copyright",
    "only_build_toc_files": "external_toc_exclude_missing",
    "exclude_patterns": "exclude_patterns", "bibtex_bibfiles": "bibtex_bibfiles",
    "execute.execute_notebooks": "nb_execution_mode", "execute.stderr_output": "nb_output_stderr",
    "parse.myst_enable_extensions": "myst_enable_extensions",
    "html.use_multitoc_numbering": "use_multitoc_numbering",
}
#: The same for settings of the theme.
THEME = {
    "html.home_page_in_navbar": "home_page_in_toc",
    "html.use_repository_button": "use_repository_button",
    "html.use_issues_button": "use_issues_button",
    "html.use_edit_page_button": "use_edit_page_button", "launch_buttons": "launch_buttons",
}
#: What is read by name below.
REST = {"sphinx.local_extensions", "sphinx.config"}


def flat(about: dict[str, Any]) -> dict[str, Any]:
    """The settings by their names, "html.use_issues_button"; a whole table where that is one."""
    whole = {name for name in (*NAMES, *THEME, *REST)}
    found = {}
    for name, value in about.items():
        if name in whole or not isinstance(value, dict):
            found[name] = value
        else:
            found |= {f"{name}.{inner}": x for inner, x in value.items()}
    return found


def settings(site: Path) -> dict[str, Any]:
    """Sphinx's settings for a folder with _config.yml, _toc.yml, _static and _ext.

    Raises
    ------
    ValueError
        If _config.yml has a setting that is not known here; the message names it.
    """
    about = flat(yaml.safe_load((site / "_config.yml").read_text(encoding="utf-8")))
    if strange := sorted(about.keys() - NAMES.keys() - THEME.keys() - REST):
        raise ValueError(f"_config.yml has {', '.join(strange)}: say in tools/plain_sphinx.py what "
                         "Sphinx calls it")
    static = site / "_static"
    found = {
        "external_toc_path": "_toc.yml", "html_theme": "sphinx_book_theme",
        "html_sourcelink_suffix": "", "pygments_style": "sphinx",
        "myst_url_schemes": ["mailto", "http", "https"],
        "html_static_path": ["_static"],
        "html_css_files": sorted(path.name for path in static.glob("*.css")),
        "html_js_files": sorted(path.name for path in static.glob("*.js")),
        "html_theme_options": {"search_bar_text": "Search this book...", "path_to_docs": ""} | {
            THEME[name]: value for name, value in about.items() if name in THEME},
    }
    found |= {NAMES[name]: value for name, value in about.items() if name in NAMES}
    if found.get("nb_execution_mode") is False:  # YAML reads `off` so
        found["nb_execution_mode"] = "off"
    found |= about.get("sphinx.config", {})
    extensions = [name for name in found["extensions"] if name not in ITS_OWN]
    extensions += [name for name in about.get("sphinx.local_extensions", {})
                   if name not in extensions]
    if found.get("use_multitoc_numbering"):
        extensions.append("sphinx_multitoc_numbering")
    return found | {"extensions": extensions}


def build(site: Path, out: Path) -> int:
    """Render a folder of executed pages; Sphinx's messages go to the terminal.

    Parameters
    ----------
    site : Path
        The sources.
    out : Path
        The folder for html/ and trees/, whose earlier content is removed.

    Returns
    -------
    int
        Sphinx's exit status, which is not 0 if there is any warning or broken reference.
    """
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    shutil.rmtree(out, ignore_errors=True)
    about = yaml.safe_load((site / "_config.yml").read_text(encoding="utf-8"))
    rooms = [str(site / room) for room in about["sphinx"].get("local_extensions", {}).values()]
    sys.path[:0] = rooms
    try:
        with patch_docutils(str(site)), docutils_namespace():
            app = Sphinx(site, None, out / "html", out / "trees", "html",
                         confoverrides=settings(site) | {"nitpicky": True}, status=None,
                         freshenv=True, warningiserror=True, keep_going=True)
            app.build(force_all=True)
            return app.statuscode
    finally:
        del sys.path[:len(rooms)]


def main(site: Path, out: Path) -> None:
    """Build, or end with what failed."""
    if not (site / "_toc.yml").exists():
        sys.exit(f"  sphinx FAILED: {site} holds no book: make book first")
    if build(site, out):
        sys.exit("  sphinx FAILED: see the warnings above")
    print(out / "html" / "index.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
