"""``python -m igan_fast``: the same as ``igan-fast``."""

import sys

from igan_fast.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
