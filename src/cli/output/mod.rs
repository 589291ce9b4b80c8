//! What the user is told: everything that is printed, and the words that it is printed in.
//!
//! Knows neither the verbs nor the server.

pub mod bar;
pub mod colors;
pub mod error;
pub mod escape;
pub mod files;
pub mod nearest;
pub mod printer;
pub mod size;
pub mod text;
pub mod time;
