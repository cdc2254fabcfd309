"""``python -m igan_fast.train``: the same options as ``igan-fast train``."""

import sys

from igan_fast.app.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
