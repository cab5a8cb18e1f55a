"""`nacre`, and `python -m nacre`. Ctrl-C is heard from the first moment on, while the rest is still being imported."""

import signal
import sys


def main() -> None:
    """Runs the command line; see :func:`nacre.cli.main`."""
    try:
        from nacre.cli import main as run

        run()
    except KeyboardInterrupt:
        print("nacre: stopped by Ctrl-C", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
