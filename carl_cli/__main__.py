"""`python -m carl_cli` is `carl`, also where no folder of commands is on the PATH."""

from carl_cli.cli.entry import main

if __name__ == "__main__":
    main()
