"""Where bytes lie: on local disks and in object stores, and what each of our engines is told of it.

reading.py   a file by its path or URI: opened, identified, listed
folder.py    a folder of the lake: what is in it, read and written
settings.py  one section of the YAML as Spark's, delta-rs' and Arrow's settings
"""
