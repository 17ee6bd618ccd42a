"""A model file as one ONNX file, front end included."""
