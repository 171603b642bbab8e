"""python -m cdgen"""

from cdgen.cli import main

if __name__ == "__main__":
    main()
