//! Images in files: OCI layouts and docker-archives, as directories or tarballs, plain or compressed.
//!
//! Reading: [`Archive`] gives access by name to the members of either form, [`import`] resolves the images in
//! them. Writing: [`export()`] makes one tarball that is both forms at once, with the layers' own tars.

mod export;
mod import;
mod reader;

pub(crate) use export::{Export, export, plain_manifest};
pub(crate) use import::{Named, images_in};
pub(crate) use reader::Archive;
