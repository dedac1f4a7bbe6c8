//! What the disk does to an agent: it is full, or it has not kept what was written to it.

mod database;
mod full;
mod memory;
mod torn;
