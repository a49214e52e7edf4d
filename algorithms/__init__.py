"""One file = one algorithm; the file's name is its name on the command line and on the board."""
