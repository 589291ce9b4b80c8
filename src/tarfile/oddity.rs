//! What is not shown as an archive has it, while all the rest is.

use std::collections::BTreeMap;
use std::fmt;

/// What one tool or another takes, or leaves out, without refusing the whole archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oddity {
    /// A hard link to a directory: Linux has none.
    LinkToDirectory,
    /// A hard link to itself, perhaps by way of others.
    LinkCycle,
    /// A symbolic link without a target: Linux has none, and would take it for the directory that it is in.
    EmptySymlink,
    /// The root directory as something else.
    RootNotDirectory,
    /// An owner or group beyond what Linux can number.
    Owner,
    /// A record of an extended header whose value is not valid.
    PaxValue,
    /// The same, of a record without which nobody knows what the entry is called or where its content is.
    PaxEntry,
    /// An extended attribute that Linux could not have.
    Xattr,
    /// The archive has no end mark: it may have been cut off between two entries.
    NoEndMark,
    /// Something other than zeros follows the end mark, such as another archive.
    TrailingData,
}

impl Oddity {
    fn text(self) -> &'static str {
        match self {
            Oddity::LinkToDirectory => "hard links to a directory, left out",
            Oddity::LinkCycle => "hard links to themselves, left out",
            Oddity::EmptySymlink => "symbolic links without a target, left out",
            Oddity::RootNotDirectory => "entries for the root that are no directory, left out",
            Oddity::Owner => "owners or groups that are no 32-bit number, shown as 65534",
            Oddity::PaxValue => "PAX records that are not valid, passed over",
            Oddity::PaxEntry => "entries whose name or map in a PAX record is not valid, left out",
            Oddity::Xattr => {
                "extended attributes with a name over 255 bytes or a value over 65,536, left out"
            }
            Oddity::NoEndMark => "no end mark: it may have been cut off",
            Oddity::TrailingData => "something follows the end mark, not read",
        }
    }

    /// Whether it is about the archive, and so cannot come twice.
    fn is_of_archive(self) -> bool {
        matches!(self, Oddity::NoEndMark | Oddity::TrailingData)
    }
}

/// How often each came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Oddities(BTreeMap<Oddity, u64>);

impl Oddities {
    /// Counts one.
    pub fn count(&mut self, oddity: Oddity) {
        *self.0.entry(oddity).or_default() += 1;
    }

    /// Counts those of another reader of the same archive.
    pub fn add(&mut self, others: &Oddities) {
        for (oddity, count) in &others.0 {
            *self.0.entry(*oddity).or_default() += count;
        }
    }

    /// How often one came.
    pub fn of(&self, oddity: Oddity) -> u64 {
        self.0.get(&oddity).copied().unwrap_or_default()
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One line for people.
impl fmt::Display for Oddities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not all is shown as the archive has it: ")?;
        for (i, (oddity, count)) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { "; " })?;
            if !oddity.is_of_archive() {
                write!(f, "{count} × ")?;
            }
            f.write_str(oddity.text())?;
        }
        Ok(())
    }
}
