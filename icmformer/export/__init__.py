"""A network taken apart for other runtimes: image encoder and mask decoder, ONNX files."""
