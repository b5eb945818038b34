"""Write a run's metrics and records as a TensorBoard event file.

    python -m sslstep.train.tensorboard FOLDER
    tensorboard --logdir FOLDER

:func:`sslstep.train.write_tensorboard` does the work.
"""

import argparse

from sslstep import _terminal
from sslstep.train import write_tensorboard


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sslstep.train.tensorboard", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", help="of the run, with its metrics.jsonl")
    parser.add_argument("--log-dir", help="where to write (default: FOLDER/tensorboard)")
    parser.add_argument("--num-modes", type=int, default=16, help="leading eigenvalues to write")
    options = parser.parse_args()
    try:
        print(write_tensorboard(options.folder, options.log_dir, num_modes=options.num_modes))
    except (OSError, ModuleNotFoundError, ValueError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    _terminal.accept_any_text()
    main()
