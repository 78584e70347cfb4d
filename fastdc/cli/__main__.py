"""`python -m fastdc.cli`."""

from fastdc.cli import run

if __name__ == "__main__":
    run()
