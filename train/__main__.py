"""python -m cdgen.train --config recipes/demo.yaml --data DATA --out out/demo

On several GPUs, or processes: torchrun --nproc_per_node N -m cdgen.train ...
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cdgen.cli.app import execute


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cdgen.train", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="a recipe, recipes/*.yaml")
    parser.add_argument("--data", type=Path, required=True, help="folder of the recipe's sources")
    parser.add_argument("--out", type=Path, required=True, help="run folder; resumes what is there")
    options = parser.parse_args()
    from cdgen.train.loop import train_recipe  # it imports torch, which `execute` prepares

    train_recipe(options.config, options.data, options.out)


if __name__ == "__main__":
    execute(main)
