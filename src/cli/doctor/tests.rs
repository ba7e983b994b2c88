//! Tests of the sums: which limit binds, and that its line is enough.
