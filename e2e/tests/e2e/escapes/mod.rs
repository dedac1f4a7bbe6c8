//! The known ways out of a container, tried again: each of these let somebody reach the host through another runtime, or
//! through this one's like. One test for each, with its number; what keeps the door shut is named where it is not plain.
//!
//! | file | doors |
//! | --- | --- |
//! | `paths` | what images, volumes and logs name: links that lead out, and that change while they are looked up |
//! | `processes` | what a process has of the runtime's, or can see of it: its program, descriptors, rights, sockets |
//! | `kernel` | what the kernel shows as files: parameters, masked paths, the terminal, `/proc` itself |
//! | `users` | who a container runs as |

mod images;
mod kernel;
mod paths;
mod processes;
mod users;

use std::fs;
use std::path::PathBuf;

/// A directory, made.
fn made(directory: PathBuf) -> PathBuf {
    fs::create_dir_all(&directory).unwrap();
    directory
}
