"""Files of other programs: which column is which, and in which unit."""

# Here, as the command line names them before any reader is imported.
FORMATS = ("text", "npy", "hdf5", "parquet", "root", "xyz")
