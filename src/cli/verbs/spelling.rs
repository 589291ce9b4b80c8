//! The arguments of the process in the one spelling that the parser knows.

use std::ffi::OsString;

use clap::Subcommand as _;

use super::command::Command;
use super::{find, mount_helper};

/// Spells out what mount(8) asks of its helpers, and the options of find(1) that have one dash.
pub fn spell_out(arguments: Vec<OsString>) -> Vec<OsString> {
    find::spell_out(mount_helper::spell_out(arguments, |word| {
        word == "help" || Command::has_subcommand(word)
    }))
}
