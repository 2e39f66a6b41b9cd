"""Run `python -m kbnet_cli` as `kbnet`."""

from kbnet_cli.cli import main

if __name__ == "__main__":
    main()
