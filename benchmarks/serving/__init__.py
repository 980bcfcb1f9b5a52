"""What `benchmarks/serve.py` measures: the service over HTTP, and the limit of one core."""
