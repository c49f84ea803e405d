"""``python -m crawler``: the command line, also the way in which a master starts downloaders."""

from multiprocessing import freeze_support

from crawler.cli import main

if __name__ == "__main__":
    freeze_support()
    main()
