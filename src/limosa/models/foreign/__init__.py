"""Models of other libraries, one file each: `CARD` says how `NAME` or `NAME:FOLDER` is loaded."""
