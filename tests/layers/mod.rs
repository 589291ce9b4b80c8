//! Layers: what one holds, and what several make together.

mod build;
mod model;
mod sources;
mod tars;
mod unpacked;
