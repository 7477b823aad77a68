"""Start a notebook tool (`python tools/quick.py jupytext ...`) without a slow grammar.

jsonschema imports rfc3987_syntax where it is installed, which takes two seconds to compile, to
check international web addresses; no notebook's schema asks for that, and jsonschema does without
it where it is absent. The tool ends with the process that started it.
"""
import os
import runpy
import sys
import threading
import time


def end_with(parent):
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
sys.modules["rfc3987_syntax"] = None
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
