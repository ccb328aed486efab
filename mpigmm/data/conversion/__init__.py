"""Files of other formats, which `convert` turns into HDF5."""
