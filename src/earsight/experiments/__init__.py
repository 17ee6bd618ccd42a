"""The paper's experiments: their cells, cost and results."""
