"""`python -m pipeline` is the command `lakestorm`."""

from pipeline.cli import main

if __name__ == "__main__":
    main(prog_name="lakestorm")
