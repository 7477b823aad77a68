"""Start a notebook tool (`python tools/quick.py jupytext ...`) without a slow grammar.

If rfc3987_syntax is installed, jsonschema imports it to check international web addresses, which
takes two seconds. No notebook's schema needs that, and jsonschema works without it. The tool ends
with the process that started it.
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
