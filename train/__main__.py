"""python -m cdgen.train --config recipes/demo.yaml --data DATA --out out/demo"""

from __future__ import annotations

import argparse
from pathlib import Path

from cdgen.train.loop import train_recipe

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m cdgen.train", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="a recipe, recipes/*.yaml")
    parser.add_argument("--data", type=Path, required=True, help="folder of the recipe's sources")
    parser.add_argument("--out", type=Path, required=True, help="run folder; resumes what is there")
    options = parser.parse_args()
    train_recipe(options.config, options.data, options.out)
