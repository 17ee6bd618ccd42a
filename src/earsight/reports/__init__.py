"""Tables and figures made from what a run saved: dicts and arrays in; text and image files out."""
