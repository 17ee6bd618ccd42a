"""Export of a model file, front end included, to one ONNX file."""
