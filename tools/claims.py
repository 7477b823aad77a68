"""Which sentences of the pages this build contradicts: `python tools/claims.py build/executed`."""
import sys
from pathlib import Path

from zu.book.claims import summary

print(summary([*Path(sys.argv[1]).glob("*.ipynb")]))
