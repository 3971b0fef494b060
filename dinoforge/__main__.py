"""``python -m dinoforge`` is the ``dinoforge`` command."""

import sys

from dinoforge.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
