"""Command line of the experiments: `python -m experiments --help`."""

from sslstep.experiment import cli

if __name__ == "__main__":
    cli.start("experiments")
