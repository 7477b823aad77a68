"""Write the moments that the package brings along: zu/data/files/moments.

`python tools/package_moments.py` reads what `zu.moments` reads by default of the embedded model
(half a minute on a CPU), and writes a file of some two megabytes for each default layer. To be run
again when the prose, the default number of tokens, the default layers or the fingerprint change:
what fits no longer is not taken, and a test fails.
"""
from __future__ import annotations

import zu
from zu.data.cache import packaged_file
from zu.second_moments import KIND, package


def main() -> None:
    """Write, and remove what was there for something else."""
    model, tokenizer = zu.load_model("smollm2", device="cpu")
    files = package(model, tokenizer, zu.models.resolve_layers(model))
    for path in packaged_file(KIND, "").parent.glob("*.safetensors"):
        if path not in files:
            path.unlink()
    print(*files, sep="\n")


if __name__ == "__main__":
    main()
