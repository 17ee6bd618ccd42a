"""The paper's experiments as a whole: which cells there are, what they cost, and what came of them."""
