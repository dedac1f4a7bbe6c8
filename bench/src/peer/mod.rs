//! The runtimes under test.
