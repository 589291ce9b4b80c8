//! The register of live mounts: one small file for each server, in the runtime directory.
//!
//! A record says what its server is about; whether that still holds is decided by the kernel: a server that ended
//! without saying so leaves its record, and perhaps its mount, behind. A file is replaced as a whole, so a reader never
//! sees half of one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::cli::output::error::{CommandError, Kind};
use crate::cli::output::text;
use crate::mountinfo;
use crate::owner::Owner;

/// No record is larger, in bytes.
const MAX_RECORD: u64 = 64 << 10;

/// Why the register cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path:?}")]
pub struct RegisterError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl From<RegisterError> for CommandError {
    fn from(error: RegisterError) -> CommandError {
        CommandError::of(Kind::Failed, &error)
    }
}

/// How far a mount is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The source is being read.
    Filling,
    /// All of it is there.
    Ready,
    /// Some of it will never come.
    Broken,
}

/// How the table of mounts tells a kernel mount of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelMount {
    /// The image that is mounted.
    #[serde(with = "text")]
    pub image: PathBuf,
    /// `st_dev` of what is mounted, as `major:minor`.
    pub device: String,
}

impl KernelMount {
    /// Whether it is what stands at a place.
    pub fn stands_at(&self, mountpoint: &Path) -> bool {
        let table = mountinfo::read_table().unwrap_or_default();
        let found = mountinfo::topmost(&table, mountpoint);
        found.is_some_and(|mount| {
            mount.filesystem_type == "erofs" && mount.source == self.image && mount.device == self.device
        })
    }
}

/// What a server tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The source as the user named it, but for a path, which is absolute.
    #[serde(with = "text")]
    pub source: OsString,
    /// What the source was found to be, as a digest or another name that stays; empty before it is known.
    #[serde(default)]
    pub id: String,
    /// Where it is mounted: absolute, symlinks resolved.
    #[serde(with = "text")]
    pub mountpoint: PathBuf,
    /// How many directories were made for this mount, the mountpoint and those above it, and go with it.
    #[serde(default)]
    pub made_directories: usize,
    /// The server.
    pub owner: Owner,
    /// When the mount was asked for, as RFC 3339.
    pub since: String,
    /// Where the server writes its log.
    #[serde(with = "text")]
    pub log: PathBuf,
    /// How far it is.
    pub stage: Stage,
    /// Bytes read so far, and in the end the bytes of all files.
    #[serde(default)]
    pub bytes: u64,
    /// Entries found so far, and in the end all of them.
    #[serde(default)]
    pub entries: u64,
    /// That it is the kernel which serves it, if so: the server named here has only made the mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelMount>,
    /// Why some of it will never come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The tar that is served where it lies, and which `id` describes; empty if there is none.
    #[serde(default, with = "text", skip_serializing_if = "is_empty")]
    pub archive: PathBuf,
    /// Of a mount of many sources, the names of those that are open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<String>,
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// The register.
#[derive(Clone, Debug)]
pub struct Register {
    dir: PathBuf,
}

impl Register {
    /// The register in `dir`, a directory of this user's alone.
    pub fn new(dir: PathBuf) -> Register {
        Register { dir }
    }

    /// Where the server `owner` writes its log unless told otherwise.
    pub fn log_path(&self, owner: &Owner) -> PathBuf {
        self.path(owner, "log")
    }

    /// Where the server `owner` takes requests.
    pub fn socket_path(&self, owner: &Owner) -> PathBuf {
        self.path(owner, "sock")
    }

    /// Adds a record. It is removed when the [`Registration`] is dropped.
    pub fn add(&self, record: Record) -> Result<Registration, RegisterError> {
        let registration = Registration { register: self.clone(), record, gone: Arc::default() };
        registration.write()?;
        Ok(registration)
    }

    /// All records, those of servers that are gone too, sorted by mountpoint.
    ///
    /// A file that cannot be read as a record is passed over: it is another version's.
    pub fn records(&self) -> Result<Vec<Record>, RegisterError> {
        let failed = |source| RegisterError { action: "read", path: self.dir.clone(), source };
        let files = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            files => files.map_err(failed)?,
        };
        let mut records = Vec::new();
        for file in files {
            let path = file.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                match read(&path) {
                    Ok(record) => records.push(record),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => tracing::warn!("passing over {path:?}: {e}"),
                }
            }
        }
        records.sort_by(|a, b| (&a.mountpoint, &a.since).cmp(&(&b.mountpoint, &b.since)));
        Ok(records)
    }

    /// Removes what a server left that is gone: its record, log and socket, and a mountpoint made for it.
    pub fn forget(&self, record: &Record) {
        // Whatever is gone already is as it should be, and what cannot be removed now can be the next time.
        for dir in record.mountpoint.ancestors().take(record.made_directories) {
            let _ = fs::remove_dir(dir);
        }
        let _ = fs::remove_file(self.log_path(&record.owner));
        let _ = fs::remove_file(self.socket_path(&record.owner));
        let _ = fs::remove_file(self.path(&record.owner, "json"));
    }

    /// Removes the records of dead servers that had this mountpoint, but not the directory; tells how many
    /// directories were made for one of them.
    pub fn take_over(&self, mountpoint: &Path) -> Result<usize, RegisterError> {
        let mut made = 0;
        for record in self.records()? {
            if record.mountpoint == mountpoint && !record.owner.is_alive() {
                made = made.max(record.made_directories);
                self.forget(&Record { made_directories: 0, ..record });
            }
        }
        Ok(made)
    }

    fn path(&self, owner: &Owner, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", owner.file_stem()))
    }
}

fn read(path: &Path) -> io::Result<Record> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_RECORD).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// This process's own record, as long as it lives.
#[derive(Debug)]
pub struct Registration {
    register: Register,
    record: Record,
    /// Whether the record was removed, for good.
    gone: Arc<Mutex<bool>>,
}

/// What is left of a registration if its process ends without dropping it.
#[derive(Debug)]
pub struct Remains {
    register: Register,
    record: Record,
    gone: Arc<Mutex<bool>>,
}

impl Remains {
    /// Removes it. Nobody writes it again.
    pub fn remove(self) {
        *self.gone.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.register.forget(&self.record);
    }
}

impl Registration {
    /// What is registered.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Where this process takes requests.
    pub fn socket_path(&self) -> PathBuf {
        self.register.socket_path(&self.record.owner)
    }

    /// What is left if this process ends without dropping the registration.
    pub fn remains(&self) -> Remains {
        let (register, record) = (self.register.clone(), self.record.clone());
        Remains { register, record, gone: Arc::clone(&self.gone) }
    }

    /// Changes the record.
    pub fn update(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), RegisterError> {
        change(&mut self.record);
        self.write()
    }

    /// Leaves the record where it is: what it tells of needs no process.
    pub fn keep(self) {
        *self.gone.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Removes the record, but not the mountpoint: it is another's.
    pub fn abandon(mut self) {
        self.record.made_directories = 0;
    }

    fn write(&self) -> Result<(), RegisterError> {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if *gone {
            return Ok(());
        }
        let path = self.register.path(&self.record.owner, "json");
        let new = path.with_extension("new");
        let write = || {
            let mut file = File::create(&new)?;
            serde_json::to_writer_pretty(&mut file, &self.record)?;
            file.write_all(b"\n")?;
            fs::rename(&new, &path)
        };
        write().map_err(|source| RegisterError { action: "write", path: path.clone(), source })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !*self.gone.lock().unwrap_or_else(PoisonError::into_inner) {
            self.register.forget(&self.record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    fn record(mountpoint: &OsStr) -> Record {
        Record {
            source: "debian".into(),
            id: String::new(),
            mountpoint: mountpoint.into(),
            made_directories: 0,
            owner: Owner::this_process().unwrap(),
            since: "2024-01-01T00:00:00Z".into(),
            log: "/run/imagefs/1.log".into(),
            stage: Stage::Filling,
            bytes: 0,
            entries: 0,
            failure: None,
            kernel: None,
            archive: PathBuf::new(),
            open: Vec::new(),
        }
    }

    #[test]
    fn a_record_is_there_as_long_as_its_registration() {
        let dir = tempfile::tempdir().unwrap();
        let register = Register::new(dir.path().to_owned());
        assert_eq!(register.records().unwrap(), []);

        let first = record(OsStr::from_bytes(b"/mnt/\xff \n"));
        let mut registration = register.add(first.clone()).unwrap();
        assert_eq!(register.records().unwrap(), std::slice::from_ref(&first));

        registration.update(|record| record.stage = Stage::Ready).unwrap();
        assert_eq!(register.records().unwrap(), [Record { stage: Stage::Ready, ..first }]);

        drop(registration);
        assert_eq!(register.records().unwrap(), []);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_record_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let register = Register::new(dir.path().to_owned());
        fs::write(dir.path().join("1-1.json"), "{\"source\":").unwrap();
        fs::write(dir.path().join("1-1.log"), "text").unwrap();
        let _registration = register.add(record(OsStr::new("/mnt"))).unwrap();
        assert_eq!(register.records().unwrap().len(), 1);
    }

    #[test]
    fn a_mountpoint_made_for_a_mount_goes_with_it_only_if_empty() {
        let dir = tempfile::tempdir().unwrap();
        let register = Register::new(dir.path().to_owned());
        let mountpoint = dir.path().join("mnt");
        let made = Record { made_directories: 1, ..record(mountpoint.as_os_str()) };

        fs::create_dir(&mountpoint).unwrap();
        fs::write(mountpoint.join("kept"), "").unwrap();
        drop(register.add(made.clone()).unwrap());
        assert!(mountpoint.join("kept").exists());

        fs::remove_file(mountpoint.join("kept")).unwrap();
        drop(register.add(made).unwrap());
        assert!(!mountpoint.exists());
    }
}
