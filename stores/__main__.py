"""Run the command line: ``python -m reelstore``."""

from .command import app

if __name__ == "__main__":
    app(prog_name="reelstore")
