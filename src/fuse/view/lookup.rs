//! From names to nodes, and what is told of a node.

use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::table::{Mounted, Table};
use super::{Attributes, DESCRIPTION_NAME, MAX_NAME, Spot, View, ViewError, layers};
use crate::fuse::node::Node;
use crate::index::{Certainty, FileType, FillState, Ino, ProvisionalStat, Stat};

impl View {
    /// The attributes of a node.
    pub fn attributes(&self, node: Node) -> Result<Attributes, ViewError> {
        match self.spot(node)? {
            Spot::Top => Ok(self.top(&self.tables.current())),
            Spot::Description(number, edition) => Ok(self.description(number, &edition)),
            Spot::Layers => self.layers_directory().ok_or(ViewError::NoSuchNode(node)),
            Spot::Mount(mounted, ino) => self.attributes_in(&mounted, self.shown_as(node, ino)),
        }
    }

    /// `shown_as` is the number under which the inode is shown.
    fn attributes_in(&self, mounted: &Mounted, shown_as: Ino) -> Result<Attributes, ViewError> {
        let filesystem = mounted.filesystem();
        // Asked first: what was read while it was being filled is not final because it is full now.
        let certainty = match filesystem.state() {
            FillState::Ready => Certainty::Final,
            FillState::Filling | FillState::Broken => Certainty::Growing,
            FillState::Dormant => Certainty::Provisional,
        };
        let stat = Stat { ino: shown_as, ..filesystem.tree().stat(mounted.shown().real(shown_as))? };
        self.of_stat(mounted, &stat, certainty)
    }

    /// The attributes of a node as far as they are known without waiting for them.
    pub(super) fn provisional_stat(&self, node: Node) -> Result<Attributes, ViewError> {
        match self.spot(node)? {
            Spot::Mount(mounted, ino) => self.glimpse_in(&mounted, self.shown_as(node, ino)),
            Spot::Top | Spot::Description(..) | Spot::Layers => self.attributes(node),
        }
    }

    /// The same; `shown_as` is the number under which the inode is shown.
    pub(super) fn glimpse_in(&self, mounted: &Mounted, shown_as: Ino) -> Result<Attributes, ViewError> {
        let known = mounted.filesystem().provisional_stat(mounted.shown().real(shown_as))?;
        self.glimpse_of(mounted, shown_as, known)
    }

    /// The same of what is known already.
    pub(super) fn glimpse_of(
        &self,
        mounted: &Mounted,
        shown_as: Ino,
        mut provisional_stat: ProvisionalStat,
    ) -> Result<Attributes, ViewError> {
        provisional_stat.stat.ino = shown_as;
        match provisional_stat.stat.file_type {
            // The kernel does not let a device change its number.
            FileType::CharDevice | FileType::BlockDevice
                if provisional_stat.certainty == Certainty::Provisional =>
            {
                Ok(Attributes { certainty: Certainty::Provisional, ..self.attributes_in(mounted, shown_as)? })
            }
            // Its length takes its target, which only who follows it wants.
            FileType::Symlink if provisional_stat.certainty == Certainty::Provisional => {
                let node = self.numbering.node(mounted.slot(), shown_as);
                Ok(self.plain(node, &provisional_stat.stat, Certainty::Provisional))
            }
            _ => match self.of_stat(mounted, &provisional_stat.stat, provisional_stat.certainty) {
                Err(error) if error.is_not_yet() => {
                    let node = self.numbering.node(mounted.slot(), shown_as);
                    let plain = self.plain(node, &provisional_stat.stat, Certainty::Provisional);
                    Ok(Attributes { size: provisional_stat.stat.size, ..plain })
                }
                known => known,
            },
        }
    }

    /// The node that `name` names in the directory `dir`; `None` if it names none.
    ///
    /// What is not known of its attributes yet is not waited for. The caller has the node until it is
    /// [forgotten](View::forget).
    pub fn lookup(&self, dir: Node, name: &[u8]) -> Result<Option<Attributes>, ViewError> {
        if name.len() > MAX_NAME {
            return Err(ViewError::NameTooLong);
        }
        match self.spot(dir)? {
            Spot::Description(..) => Err(ViewError::NotADirectory(dir)),
            Spot::Top if name == DESCRIPTION_NAME => {
                let (number, edition) = self.editions.hold_latest();
                Ok(Some(self.description(number, &edition)))
            }
            // Where no layers are shown, a container may have a mount of that name.
            Spot::Top if name == layers::DIRECTORY_NAME && self.layers_directory().is_some() => {
                Ok(self.layers_directory())
            }
            Spot::Top => self.lookup_mount(name, |table| 0..table.containers),
            Spot::Layers => self.lookup_mount(name, |table| table.containers..table.mounts.len()),
            Spot::Mount(mounted, ino) => {
                mounted.touch();
                let Some(found) = mounted.filesystem().tree().lookup(ino, name)? else { return Ok(None) };
                let attributes = self.show(&mounted, ino, found)?;
                match self.tables.hold(mounted.slot()) {
                    true => Ok(Some(attributes)),
                    // Only what stands at the mountpoint is not kept by the kernel, and can have been replaced meanwhile.
                    false => self.lookup(dir, name),
                }
            }
        }
    }

    fn lookup_mount(
        &self,
        name: &[u8],
        among: impl Fn(&Table) -> Range<usize>,
    ) -> Result<Option<Attributes>, ViewError> {
        let table = self.tables.hold_current();
        let mut indices = among(&table);
        let named = |&index: &usize| table.mounts.get(index).is_some_and(|m| m.name.as_bytes() == name);
        let mounted = indices.find(named).and_then(|index| Mounted::new(Arc::clone(&table), index));
        // Its own attributes may have to come first. They are asked for by whoever needs them: here, nobody could look up
        // anything else meanwhile, nor could the kernel be told of anything.
        let found = mounted.map(|mounted| self.glimpse_in(&mounted, Ino::ROOT)).transpose();
        if !matches!(found, Ok(Some(_))) {
            self.tables.unhold(&table);
        }
        found
    }

    /// The target of a symlink: at most 4,095 bytes.
    pub fn read_link(&self, node: Node) -> Result<Vec<u8>, ViewError> {
        let Spot::Mount(mounted, ino) = self.spot(node)? else { return Err(ViewError::NotASymlink(node)) };
        self.shown_target(&mounted, self.shown_as(node, ino), None)
    }
}
