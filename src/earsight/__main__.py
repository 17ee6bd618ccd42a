"""``python -m earsight``: the command line."""

from earsight.cli import main

if __name__ == "__main__":
    main()
