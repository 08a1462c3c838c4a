"""Small recorded sets that ship with the package, so that tests and examples need no simulator; knows no simulator."""

from pathlib import Path

from trimtab.data.episodes import Episodes


def coinrun() -> Episodes:
    """Eight episodes of Procgen's coinrun, 320 frames of 64 x 64, levels of 0-499, sticky actions.

    Decoded into memory (4 MB) at every call, so that nothing is ever written into the installed package. Recorded with
    ``trimtab record-procgen --num-environments 8 --num-frames 320 --max-episode-frames 60 --output <folder>``.
    """
    return Episodes.open(Path(__file__).with_name("coinrun"), in_memory=True)
