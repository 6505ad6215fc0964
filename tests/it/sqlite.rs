//! What only a file can do: be another's, be damaged, be locked, lose its process half-way.
