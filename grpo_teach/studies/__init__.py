"""Laboratory: recorded studies, their statistics, the bases that they start from, and a world of exact sums."""
