//! One question to the runtimes for each file.
