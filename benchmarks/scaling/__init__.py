"""What `scale.py` measures with: rows made on Spark, the stages on them, the memory they take."""
