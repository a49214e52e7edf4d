"""Files that must be refused, one way each, and odd files that must not; built, never stored.

`bad.CASES` and `good.CASES`: name -> what to do to a sound file. The kinds are those of the threat
list for datasets: pointers out of the file, bombs, filters, types, structure, damage, and what is
no HDF5 file at all.
"""
