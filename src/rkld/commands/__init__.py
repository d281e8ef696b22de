"""The verbs of the command line and the functions of the same names, as a user calls them."""
