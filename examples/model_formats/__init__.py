"""A service whose model is a file of joblib, pickle, skops, safetensors, ONNX or NumPy: one file a format."""
