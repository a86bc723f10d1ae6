"""The benchmark: our scorer against what people would use instead, measured in one process, in turn."""
