"""Other people's packages to measure against: each in a virtual environment of its own, asked through a pipe."""
