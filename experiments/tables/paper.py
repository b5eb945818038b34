"""The numbers that the paper prints in Tables 1 and 2."""

from sslstep.recipes import Method

# Of Table 1, by method: the prediction from the final NTK, and its leading eigenvectors.
PAPER_TABLE_1 = {
    "barlow_twins": (0.615, 0.510),
    "simclr": (0.517, 0.450),
    "vicreg": (0.592, 0.481),
}


PAPER_TABLE_2: dict[tuple[Method, Method], float] = {
    ("barlow_twins", "simclr"): 0.504,
    ("barlow_twins", "vicreg"): 0.504,
    ("simclr", "vicreg"): 0.405,
}
