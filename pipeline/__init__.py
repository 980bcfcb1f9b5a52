"""lakestorm: deep learning on a lake of Parquet."""
