"""The commands of ``pyaccel`` that are more than a few lines, a file each; :mod:`pyaccel.cli` puts them together.

Nothing here imports torch at the top, so that ``pyaccel --help`` answers at once.
"""
