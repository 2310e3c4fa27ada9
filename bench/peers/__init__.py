"""The other side of each ratio, in its strongest honest form."""
