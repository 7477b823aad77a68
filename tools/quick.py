"""Start a notebook tool (`python tools/quick.py papermill ...`) without a grammar that takes it two seconds to compile.

jsonschema imports rfc3987_syntax where it is installed, to check international web addresses; no notebook's schema asks
for that, and jsonschema does without it where it is absent.
"""
import runpy
import sys

sys.modules["rfc3987_syntax"] = None
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
