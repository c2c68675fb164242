"""Random damage and misuse, reproducible by seed: nothing is silently wrong, crashes, hangs or prints a traceback.

Four subjects: texts of molecules, files of molecules, what molstream wrote itself, and command lines. Every case is a
function of its number; ``make test`` runs the first 150, ``make test-all`` 1,500.
"""
