"""`python -m latentprobe`: the same as the command `latentprobe`."""

from latentprobe.cli import main

if __name__ == "__main__":
    main()
