//! The log of a container: output bytes become records in the CRI log format, and records are appended to a file.
//!
//! The monitor of a pod owns one [`LogFile`] per container and one [`LineSplitter`] per stream, all on its only
//! thread. [`mod@line`] is pure; [`mod@file`] makes the system calls. Nothing here blocks on anything but a regular
//! file, and nothing that happens to the file can stop the container: what cannot be written is counted and dropped.
//! No tokio here, no clock, and no memory that grows with what a container writes.
//!
//! ```no_run
//! # use berth_logs::{LineSplitter, LogFile, Stream, Timestamp, DEFAULT_MAX_LINE_BYTES};
//! # fn pump(mut output: impl std::io::Read) -> Result<(), Box<dyn std::error::Error>> {
//! let mut file = LogFile::open("/var/log/pods/ns_pod_uid/web/0.log")?;
//! let mut lines = LineSplitter::new(Stream::Stdout, DEFAULT_MAX_LINE_BYTES);
//! let (mut input, mut records) = ([0; 8192], Vec::new());
//! loop {
//!     let read = output.read(&mut input)?;
//!     let stamp = Timestamp::new(std::time::SystemTime::now());
//!     if read == 0 {
//!         lines.flush(stamp, &mut records);
//!         file.append(&records);
//!         return Ok(());
//!     }
//!     let mut rest = &input[..read];
//!     while !rest.is_empty() {
//!         rest = lines.split(rest, stamp, &mut records);
//!         file.append(&records);
//!         records.clear();
//!     }
//! }
//! # }
//! ```

pub mod file;
pub mod line;
mod timestamp;

pub use file::{LogError, LogFile};
pub use line::{DEFAULT_MAX_LINE_BYTES, LineSplitter, Stream};
pub use timestamp::Timestamp;
