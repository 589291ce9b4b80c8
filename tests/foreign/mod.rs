//! Archives and images as other programs write them, against GNU tar, bsdtar, Python and umoci.

mod archive;
mod compressed;
mod endings;
mod generated;
mod headers;
mod tools;
