"""Write the moments that come with the package: zu/data/files/moments.

`python tools/package_moments.py` reads the default moments of the embedded model (half a minute on
a CPU), and writes a file of about two megabytes per default layer. Run it again if the prose, the
default number of tokens, the default layers or the fingerprint change; otherwise the old files are
not used, and a test fails.
"""
from __future__ import annotations

import zu
from zu.data.cache import packaged_file
from zu.second_moments import KIND, package


def main() -> None:
    """Write the files, and remove outdated ones."""
    model, tokenizer = zu.load_model("smollm2", device="cpu")
    files = package(model, tokenizer, zu.models.resolve_layers(model))
    for path in packaged_file(KIND, "").parent.glob("*.safetensors"):
        if path not in files:
            path.unlink()
    print(*files, sep="\n")


if __name__ == "__main__":
    main()
