//! The database: small versioned records, one transaction per change, read back at start.
//!
//! In: [`Record`]s, grouped into a [`Change`]. Out: after a restart, every record of a type through
//! [`Store::load`]. What happens between is one SQLite file, `berth.db`, under the agent's root directory, whose
//! rows are JSON, so that an operator can read them with `sqlite3 berth.db 'select * from records'` while the
//! agent runs.
//!
//! A change is applied whole or not at all. How much it survives is chosen per change ([`Durability`]): the death
//! of any process without a disk flush, or a power cut with one. The file is never torn by either. One that can't be
//! read for another reason is set aside ([`Ruin`]), as are single rows ([`SetAside`]): neither keeps a node from starting.
//! A disk that others have filled does not keep an agent from recording what it ends (`room`).
//!
//! What is deliberately not here: queries. The agent holds its state in memory and reads the database only when it
//! starts. [`ErrorKind`] and [`with_causes`] live here because this is the lowest crate that all who answer requests
//! can use.

mod change;
mod copy;
mod database;
mod error;
mod room;
mod ruin;
mod store;

pub use change::{Change, Loaded, Quarantined, Record, SetAside};
pub use database::{Durability, RowKey};
pub use error::{Error, ErrorKind, Result, with_causes};
pub use ruin::{Ruin, ruins};
pub use store::Store;
