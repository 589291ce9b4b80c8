//! Extended attributes, which the standard library does not read, and holes.

use std::ffi::{CString, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const ERANGE: i32 = 34;
const ENODATA: i32 = 61;
const EOPNOTSUPP: i32 = 95;

/// lseek(2)
const SEEK_DATA: c_int = 3;
const SEEK_HOLE: c_int = 4;
const ENXIO: i32 = 6;

unsafe extern "C" {
    fn llistxattr(path: *const c_char, list: *mut c_char, size: usize) -> isize;
    fn lgetxattr(path: *const c_char, name: *const c_char, value: *mut c_void, size: usize) -> isize;
    fn lseek64(fd: c_int, offset: i64, whence: c_int) -> i64;
}

/// All extended attributes of a file, no link followed.
pub fn all(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a NUL, and the buffer is as long as is said.
    let list = grow(|buffer| unsafe { llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) });
    let list = match list {
        Err(error) if error.raw_os_error() == Some(EOPNOTSUPP) => return Ok(Vec::new()),
        list => list?,
    };
    let mut found = Vec::new();
    for name in list.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let name = CString::new(name)?;
        // SAFETY: as above, and so does the name.
        let value = grow(|buffer| unsafe {
            lgetxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
        });
        match value {
            // Removed meanwhile.
            Err(error) if error.raw_os_error() == Some(ENODATA) => {}
            value => found.push((name.into_bytes(), value?)),
        }
    }
    Ok(found)
}

/// Calls with a longer buffer until all fits in.
fn grow(call: impl Fn(&mut [u8]) -> isize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1024];
    loop {
        match usize::try_from(call(&mut buffer)) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                // The kernel has no longer ones: xattr(7).
                if error.raw_os_error() != Some(ERANGE) || buffer.len() > 64 << 10 {
                    return Err(error);
                }
                buffer = vec![0; buffer.len() * 4];
            }
        }
    }
}

/// The runs of a file that are no holes: where they begin and how long they are.
pub fn runs(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let seek = |offset: u64, whence| {
        // SAFETY: it takes numbers alone, and the descriptor is open.
        let found = unsafe { lseek64(file.as_raw_fd(), offset as i64, whence) };
        u64::try_from(found).map_err(|_| io::Error::last_os_error())
    };
    let mut runs = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(at, SEEK_DATA) {
            Err(error) if error.raw_os_error() == Some(ENXIO) => break,
            start => start?,
        };
        let end = seek(start, SEEK_HOLE)?.min(size);
        if start >= size || end <= start {
            break;
        }
        runs.push((start, end - start));
        at = end;
    }
    Ok(runs)
}
