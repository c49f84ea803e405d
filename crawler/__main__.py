"""Entry point of ``python -m crawler``: the command line. A master also starts its local downloaders with it."""

from multiprocessing import freeze_support

from crawler.cli.commands import main

if __name__ == "__main__":
    freeze_support()
    main()
