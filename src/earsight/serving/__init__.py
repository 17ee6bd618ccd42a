"""A model behind HTTP: the service, its limits, and its page."""
