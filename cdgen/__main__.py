"""Run the command line: `python -m cdgen`."""

from cdgen.cli.app import main

if __name__ == "__main__":
    main()
